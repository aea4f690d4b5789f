"""The paper's ViT in a form for graphs: every shape but the batch is a number, and attention goes in blocks of queries.

The exporter's tracer gets rounding wrong where windows are counted with lengths of tensors, and a graph of known
shapes is one that a runtime can plan. The numbers are `ViTEncoder`'s, to rounding.

Legend: B images, or windows of them, N heads, C channels, h w grid cells, y x a query's and v u a key's cell.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.grid_attention import relative_positions
from anymask.model.image_encoder import GridAttention, ViTBlock, ViTEncoder

# Of a global layer's 4096 queries, so many blocks: the scores of one take 100 MB ("measured" with onnxruntime on two
# cores: 0.39 s a layer of ViT-B, all at once 0.42 s and 1.6 GB; as extra channels of query and key 0.56 s).
QUERY_BLOCKS = 8


class ViTGraph(nn.Module):
    """A `ViTEncoder` for inputs of one size: pixels (B, 3, H, W) to an embedding (B, C, h, w)."""

    def __init__(self, encoder: ViTEncoder, cells_hw: tuple[int, int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.cells_hw = cells_hw

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.encoder.patch_embed(pixels) + self.encoder._position_embedding(torch.Size(self.cells_hw))
        for block in self.encoder.blocks:
            assert isinstance(block, ViTBlock)
            x = self._block(block, x)
        return self.encoder.neck(x.permute(0, 3, 1, 2))

    def _block(self, block: ViTBlock, x: Tensor) -> Tensor:
        normalised = block.norm1(x)
        window = block.window_size
        if not window:
            x = x + _attend(block.attn, normalised, self.cells_hw, QUERY_BLOCKS)
        else:
            height, width = self.cells_hw
            dim = block.attn.qkv.in_features
            rows, columns = -(-height // window), -(-width // window)
            padded = F.pad(normalised, (0, 0, 0, columns * window - width, 0, rows * window - height))
            cut = padded.reshape(-1, rows, window, columns, window, dim).transpose(2, 3)
            attended = _attend(block.attn, cut.reshape(-1, window, window, dim), (window, window), 1)
            joined = attended.reshape(-1, rows, columns, window, window, dim).transpose(2, 3)
            x = x + joined.reshape(-1, rows * window, columns * window, dim)[:, :height, :width]
        return x + block.mlp(block.norm2(x))


def _attend(attention: GridAttention, x: Tensor, size_hw: tuple[int, int], num_blocks: int) -> Tensor:
    """`GridAttention` on (B, h, w, C)."""
    height, width = size_hw
    cells, heads, dim = height * width, attention.num_heads, attention.qkv.in_features
    qkv = attention.qkv(x).reshape(-1, cells, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    query, key, value = qkv[0], qkv[1], qkv[2]  # (B, N, h*w, c)
    grid = query.reshape(-1, heads, height, width, dim // heads)
    bias_h = grid @ relative_positions(attention.rel_pos_h, height).transpose(1, 2)  # (B, N, y, x, v)
    bias_w = (grid.transpose(2, 3) @ relative_positions(attention.rel_pos_w, width).transpose(1, 2)).transpose(2, 3)
    query = query * (dim // heads) ** -0.5
    key = key.transpose(2, 3)
    rows = -(-height // num_blocks)
    answers = []
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        scores = query[:, :, start * width : stop * width] @ key
        scores = scores.reshape(-1, heads, stop - start, width, height, width)
        scores = scores + bias_h[:, :, start:stop, :, :, None] + bias_w[:, :, start:stop, :, None, :]
        weights = scores.reshape(-1, heads, (stop - start) * width, cells).softmax(dim=-1)
        answers.append(weights @ value)
    attended = answers[0] if len(answers) == 1 else torch.cat(answers, dim=2)
    return attention.proj(attended.transpose(1, 2).reshape(-1, height, width, dim))
