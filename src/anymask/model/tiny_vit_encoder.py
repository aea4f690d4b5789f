"""MobileSAM's image encoder: TinyViT-5M, taught by SAM's own (arXiv 2306.14289; TinyViT: arXiv 2207.10666).

Inverted bottlenecks at stride 4, then transformer blocks with attention in windows at strides 8 and 16, and the
paper's neck on top, so that SAM's prompt encoder and decoder fit it. Parameters have the names that its published
checkpoint gives them. Legend: B images, C channels, H W pixels, h w grid cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.image_encoder import ImageFeatures, build_neck, pad_grid
from anymask.model.layers import ACTIVATIONS, Activation, DropPath, convolve, is_inference, is_plain_inference

# Grid rows that go through a bottleneck together ("measured": its hidden maps take 17 MB instead of 134, and the
# bottleneck two thirds of the time).
STRIP_ROWS = 32

# Of the stages at strides 4, 8, 16 and 16: TinyViT-5M as MobileSAM has it.
WIDTHS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (0, 7, 14, 7)  # cells; the first stage is convolutions alone
STRIDES = (2, 2, 1)  # from each stage to the next


class ConvNorm(nn.Module):
    """A convolution without bias, then batch norm; one convolution where nothing is learned."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, activation: Activation = "none") -> Tensor:
        if not is_inference(self):
            return ACTIVATIONS[activation](self.bn(self.c(x)))
        assert self.bn.running_mean is not None
        assert self.bn.running_var is not None
        scale = self.bn.weight * (self.bn.running_var + self.bn.eps).rsqrt()
        weight = self.c.weight * scale[:, None, None, None]
        bias = self.bn.bias - self.bn.running_mean * scale
        return convolve(self.c, x, weight, bias, activation)


class Stem(nn.Module):
    """Pixels (B, 3, H, W) to cells at stride 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, channels // 2, 3, stride=2), nn.GELU(), ConvNorm(channels // 2, channels, 3, stride=2)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.seq(pixels)


class Bottleneck(nn.Module):
    """1x1 expansion to four times the channels, depthwise 3x3, 1x1 projection, shortcut; GELU after each."""

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, 4 * channels)
        self.conv2 = ConvNorm(4 * channels, 4 * channels, 3, groups=4 * channels)
        self.conv3 = ConvNorm(4 * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w); without gradients on a processor strip by strip."""
        if self.training or not is_plain_inference(x):
            return F.gelu(x + self.drop_path(self._residual(x)))
        height = x.shape[2]
        out = torch.empty_like(x)
        for top in range(0, height, STRIP_ROWS):
            bottom = min(top + STRIP_ROWS, height)
            above, below = max(top - 1, 0), min(bottom + 1, height)  # the 3x3 convolution sees one row further
            residual = self._residual(x[:, :, above:below])[:, :, top - above : bottom - above]
            out[:, :, top:bottom] = F.gelu(x[:, :, top:bottom] + residual)
        return out

    def _residual(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x, "gelu"), "gelu"))


class Merge(nn.Module):
    """From one stage to the next: new width, and half the grid where `stride` is 2."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, stride, groups=out_channels)
        self.conv3 = ConvNorm(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x, "gelu"), "gelu"))


class WindowAttention(nn.Module):
    """Pre-norm attention inside windows of `window` cells, with one learned number per head and distance.

    The grid is padded with zeros before the normalisation; cells of the padding are looked at like any others, as in
    the reference.
    """

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)  # each head's query, key and value side by side
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        cells = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        distance_hw = (cells[:, None] - cells[None]).abs()
        self.register_buffer("distances", distance_hw[..., 0] * window + distance_hw[..., 1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        batch, height, width, dim = x.shape
        size = self.window
        x = pad_grid(x, (size, size), x.new_zeros(1, dim))
        rows, columns = x.shape[1] // size, x.shape[2] // size
        windows = x.reshape(batch, rows, size, columns, size, dim).transpose(2, 3).reshape(-1, size * size, dim)
        qkv = self.qkv(self.norm(windows)).unflatten(-1, (self.num_heads, 3, -1))
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        bias = self.attention_biases[:, self.distances][None]  # type: ignore[index]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)
        grid = self.proj(attended).reshape(batch, rows, columns, size, size, dim).transpose(2, 3)
        return grid.reshape(batch, rows * size, columns * size, dim)[:, :height, :width]


class NormedFeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class WindowBlock(nn.Module):
    """Attention in windows, a depthwise 3x3 convolution that carries over their borders, then a feed-forward part."""

    def __init__(self, dim: int, num_heads: int, window: int, drop_path: float) -> None:
        super().__init__()
        self.attn = WindowAttention(dim, num_heads, window)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)
        self.mlp = NormedFeedForward(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        cells = x.permute(0, 2, 3, 1)
        x = self.local_conv((cells + self.drop_path(self.attn(cells))).permute(0, 3, 1, 2))
        cells = x.permute(0, 2, 3, 1)
        return (cells + self.drop_path(self.mlp(cells))).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks of one width, and the way to the next stage."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViTEncoder(nn.Module):
    """About 6 M parameters; any input whose sides are multiples of 16."""

    stride = 16
    skip_channels: tuple[int, ...] = ()

    def __init__(self, *, embed_dim: int = 256, drop_path: float = 0.0) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.patch_embed = Stem(WIDTHS[0])
        self.layers = nn.ModuleList()
        num_blocks, num_built = sum(DEPTHS), 0
        for index, (width, depth, heads, window) in enumerate(zip(WIDTHS, DEPTHS, HEADS, WINDOWS, strict=True)):
            blocks: list[nn.Module] = []
            for _ in range(depth):
                rate = drop_path * num_built / (num_blocks - 1)
                blocks.append(WindowBlock(width, heads, window, rate) if window else Bottleneck(width, rate))
                num_built += 1
            is_last = index == len(WIDTHS) - 1
            self.layers.append(Stage(blocks, None if is_last else Merge(width, WIDTHS[index + 1], STRIDES[index])))
        self.neck = build_neck(WIDTHS[-1], embed_dim)

    def forward(self, pixels: Tensor) -> ImageFeatures:
        if pixels.shape[0] > 1 and is_plain_inference(pixels):
            return ImageFeatures(torch.cat([self._embed(image) for image in pixels.split(1)]))
        return ImageFeatures(self._embed(pixels))

    def _embed(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(pixels)
        for stage in self.layers:
            x = stage(x)
        return self.neck(x)
