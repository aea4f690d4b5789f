"""What every image encoder gives, and the paper's ViT. Legend: B images, C channels, H W pixels, h w grid cells.

An image encoder is any module that maps normalised pixels (B, 3, H, W) to `ImageFeatures` and says its `stride`,
its `embed_dim` and the channels of its skip maps. `tiny_encoder.py` and `conv_encoder.py` are two more of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.layers import DropPath, LayerNorm2d


@dataclass(frozen=True)
class ImageFeatures:
    """What the decoder needs to know of B images.

    `embedding` (B, C, h, w); `skips` are finer maps for the decoder's upscaling, coarse to fine: (B, C8, 2h, 2w)
    and (B, C4, 4h, 4w), or none, as in the paper.
    """

    embedding: Tensor
    skips: tuple[Tensor, ...] = ()

    def __getitem__(self, images: slice | Tensor) -> ImageFeatures:
        return ImageFeatures(self.embedding[images], tuple(skip[images] for skip in self.skips))

    def to(self, device: torch.device, dtype: torch.dtype) -> ImageFeatures:
        return ImageFeatures(self.embedding.to(device, dtype), tuple(skip.to(device, dtype) for skip in self.skips))


@runtime_checkable
class ImageEncoder(Protocol):
    """The contract of a pluggable image encoder."""

    stride: int
    embed_dim: int

    @property
    def skip_channels(self) -> tuple[int, ...]:
        """Channels of the skip maps, coarse to fine; empty where the encoder gives none."""
        ...

    def __call__(self, pixels: Tensor) -> ImageFeatures:
        """Normalised pixels (B, 3, H, W) to features."""
        ...


class PatchEmbed(nn.Module):
    """Non-overlapping patches to vectors: (B, 3, H, W) -> (B, h, w, C)."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).permute(0, 2, 3, 1)


class GridAttention(nn.Module):
    """Self-attention over an h x w grid with the decomposed relative position bias (paper A).

    The bias of query (y, x) and key (v, u) is q . rel_pos_h[y - v] + q . rel_pos_w[x - u], with the unscaled q.
    """

    def __init__(self, dim: int, num_heads: int, grid_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        head_dim = dim // num_heads
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid_size - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid_size - 1, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        batch, height, width, dim = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # (B, heads, h*w, head_dim)
        bias = self._position_bias(query, height, width)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, dim))

    def _position_bias(self, query: Tensor, height: int, width: int) -> Tensor:
        grid = query.unflatten(2, (height, width))
        rel_h = relative_positions(self.rel_pos_h, height)
        rel_w = relative_positions(self.rel_pos_w, width)
        bias_h = torch.einsum("bnyxc,yvc->bnyxv", grid, rel_h)
        bias_w = torch.einsum("bnyxc,xuc->bnyxu", grid, rel_w)
        bias = bias_h[..., :, None] + bias_w[..., None, :]
        return bias.reshape(*query.shape[:3], height * width)


def relative_positions(table: Tensor, size: int) -> Tensor:
    """The vectors of all offsets on a line of `size` cells: (size, size, C), [query, key].

    A table learned at another size is interpolated along its offsets, as in the reference.
    """
    wanted = 2 * size - 1
    if table.shape[0] != wanted:
        resized = F.interpolate(table.T[None], size=wanted, mode="linear")
        table = resized[0].T
    index = torch.arange(size, device=table.device)
    return table[index[:, None] - index[None, :] + size - 1]


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.gelu(self.lin1(x)))


class ViTBlock(nn.Module):
    """Pre-norm transformer block; attention inside windows, or over the whole grid when `window_size` is 0."""

    def __init__(self, dim: int, num_heads: int, window_size: int, grid_size: int, drop_path: float) -> None:
        super().__init__()
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = GridAttention(dim, num_heads, window_size or grid_size)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FeedForward(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        normalised = self.norm1(x)
        if self.window_size:
            windows = partition_windows(normalised, self.window_size)
            attended = join_windows(self.attn(windows), self.window_size, x.shape[1:3])
        else:
            attended = self.attn(normalised)
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x)))


def partition_windows(x: Tensor, window: int) -> Tensor:
    """(B, h, w, C) -> (B * windows, window, window, C); zeros fill the last row and column of windows."""
    batch, height, width, dim = x.shape
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.reshape(batch, rows, window, columns, window, dim).transpose(2, 3)
    return x.reshape(-1, window, window, dim)


def join_windows(windows: Tensor, window: int, size_hw: torch.Size | tuple[int, int]) -> Tensor:
    """The inverse of `partition_windows`, its padding cut off: (B, h, w, C)."""
    height, width = size_hw
    rows, columns = -(-height // window), -(-width // window)
    x = windows.reshape(-1, rows, columns, window, window, windows.shape[-1]).transpose(2, 3)
    return x.reshape(-1, rows * window, columns * window, windows.shape[-1])[:, :height, :width]


class ViTEncoder(nn.Module):
    """The paper's image encoder (3, A): plain ViT, windowed attention, four global blocks, neck to 256 channels."""

    skip_channels: tuple[int, ...] = ()

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        num_heads: int,
        global_blocks: tuple[int, ...],
        input_size: int = 1024,
        patch_size: int = 16,
        window_size: int = 14,
        embed_dim: int = 256,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride = patch_size
        self.embed_dim = embed_dim
        grid_size = input_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid_size, grid_size, width))
        self.blocks = nn.ModuleList(
            ViTBlock(
                width,
                num_heads,
                0 if index in global_blocks else window_size,
                grid_size,
                drop_path * index / max(depth - 1, 1),
            )
            for index in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, embed_dim, kernel_size=1, bias=False),
            LayerNorm2d(embed_dim),
            nn.Conv2d(embed_dim, embed_dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(embed_dim),
        )

    def forward(self, pixels: Tensor) -> ImageFeatures:
        x = self.patch_embed(pixels)
        x = x + self._position_embedding(x.shape[1:3])
        for block in self.blocks:
            x = block(x)
        return ImageFeatures(self.neck(x.permute(0, 3, 1, 2)))

    def _position_embedding(self, size_hw: torch.Size) -> Tensor:
        """The learned grid, interpolated when the input is not the size it was trained at."""
        if self.pos_embed.shape[1:3] == size_hw:
            return self.pos_embed
        grid = self.pos_embed.permute(0, 3, 1, 2)
        resized = F.interpolate(grid, size=tuple(size_hw), mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1)
