"""What every image encoder gives, and the paper's ViT. Legend: B images, C channels, H W pixels, h w grid cells.

An image encoder is any module that maps normalised pixels (B, 3, H, W) to `ImageFeatures` and says its `stride`,
its `embed_dim` and the channels of its skip maps. `tiny_encoder.py`, `tiny_vit_encoder.py` and
`conv_encoder.py` are three more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.grid_attention import (
    attend_in_blocks,
    attend_whole,
    attend_with_channels,
    position_bias,
    relative_positions,
)
from anymask.model.layers import DropPath, LayerNorm2d, apply_linear, is_plain_inference

# Grid rows that go through the last part of a global block together ("measured": 8 to 16 are equally good).
STRIP_ROWS = 14


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
    """Self-attention over a grid, or in windows of it, with the decomposed relative position bias (paper A).

    The grid is padded up to whole windows with zeros before the first layer, as in the reference: each cell of the
    padding then holds that layer's bias.
    """

    def __init__(self, dim: int, num_heads: int, grid_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        head_dim = dim // num_heads
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid_size - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid_size - 1, head_dim))

    def forward(self, x: Tensor, window_size: int = 0) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C); `window_size` 0 looks at the whole grid."""
        return apply_linear(self.proj, self.attend(x, window_size))

    def attend(self, x: Tensor, window_size: int = 0) -> Tensor:
        """What the heads saw, side by side, before the last projection: (B, h, w, C) -> (B, h, w, C)."""
        batch, height, width, dim = x.shape
        window_hw = (window_size, window_size) if window_size else (height, width)
        qkv = pad_grid(apply_linear(self.qkv, x), window_hw, self.qkv(x.new_zeros(1, 1, 1, dim))[0, 0])
        rows, columns = qkv.shape[1] // window_hw[0], qkv.shape[2] // window_hw[1]
        qkv = qkv.reshape(batch, rows, window_hw[0], columns, window_hw[1], 3, self.num_heads, -1)
        # Planes, each one head of one window: (B * rows * columns * heads, positions, channels of a head).
        planes = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, window_hw[0] * window_hw[1], qkv.shape[-1])
        query, key, value = planes.contiguous().unbind(0)
        bias_h, bias_w = position_bias(
            query.unflatten(1, window_hw),
            relative_positions(self.rel_pos_h, window_hw[0]),
            relative_positions(self.rel_pos_w, window_hw[1]),
        )
        attended = choose_attention(x)(query, key, value, bias_h, bias_w)
        windows = attended.reshape(batch, rows, columns, self.num_heads, *window_hw, -1)
        grid = windows.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, rows * window_hw[0], columns * window_hw[1], dim)
        return grid[:, :height, :width]


def pad_grid(grid: Tensor, multiple_hw: tuple[int, int], cell: Tensor) -> Tensor:
    """(B, h, w, C) with copies of `cell` (1, C) on the right and below, up to multiples of `multiple_hw`."""
    batch, height, width, _ = grid.shape
    below, right = -height % multiple_hw[0], -width % multiple_hw[1]
    if right:
        grid = torch.cat([grid, cell.expand(batch, height, right, -1)], dim=2)
    if below:
        grid = torch.cat([grid, cell.expand(batch, below, width + right, -1)], dim=1)
    return grid


def choose_attention(x: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The form of `grid_attention.py` that is quickest where `x` lies."""
    if is_plain_inference(x):
        return attend_in_blocks
    return attend_with_channels if x.is_cuda else attend_whole


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return apply_linear(self.lin2, F.gelu(apply_linear(self.lin1, x)))


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
        """(B, h, w, C) -> (B, h, w, C).

        Without gradients on a processor it goes strip by strip, so that what lies between two layers stays in the
        cache: 10 MB instead of 50 MB for ViT-B. Windows never reach from one strip into the next.
        """
        if self.training or not is_plain_inference(x):
            return self._add_mlp(self._add_attention(x))
        if self.window_size:
            strips = x.split(self.window_size, dim=1)
            return torch.cat([self._add_mlp(self._add_attention(strip)) for strip in strips], dim=1)
        attended = self.attn.attend(self.norm1(x))
        pairs = zip(x.split(STRIP_ROWS, dim=1), attended.split(STRIP_ROWS, dim=1), strict=True)
        return torch.cat([self._add_mlp(strip + apply_linear(self.attn.proj, seen)) for strip, seen in pairs], dim=1)

    def _add_attention(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.attn(self.norm1(x), self.window_size))

    def _add_mlp(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mlp(self.norm2(x)))


def build_neck(width: int, embed_dim: int) -> nn.Sequential:
    """From the width of an encoder to that of its embedding (paper A): (B, width, h, w) -> (B, embed_dim, h, w)."""
    return nn.Sequential(
        nn.Conv2d(width, embed_dim, kernel_size=1, bias=False),
        LayerNorm2d(embed_dim),
        nn.Conv2d(embed_dim, embed_dim, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(embed_dim),
    )


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
        self.neck = build_neck(width, embed_dim)

    def forward(self, pixels: Tensor) -> ImageFeatures:
        if pixels.shape[0] > 1 and is_plain_inference(pixels):
            # One by one: a processor gains nothing from a batch, and needs the memory of one image alone.
            return ImageFeatures(torch.cat([self._embed(image) for image in pixels.split(1)]))
        return ImageFeatures(self._embed(pixels))

    def _embed(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(pixels)
        x = x + self._position_embedding(x.shape[1:3])
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))

    def _position_embedding(self, size_hw: torch.Size) -> Tensor:
        """The learned grid, interpolated when the input is not the size it was trained at."""
        if self.pos_embed.shape[1:3] == size_hw:
            return self.pos_embed
        grid = self.pos_embed.permute(0, 3, 1, 2)
        resized = F.interpolate(grid, size=tuple(size_hw), mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1)
