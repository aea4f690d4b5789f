"""A plain convolutional image encoder in the ResNet manner: the example that shows an encoder is pluggable.

Legend: B images, C channels, H W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.image_encoder import ImageFeatures
from anymask.model.layers import LayerNorm2d


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm and a shortcut; the first may halve the grid."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, out_channels)
        has_new_shape = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride) if has_new_shape else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class ConvEncoder(nn.Module):
    """Strides 2, 4, 8 and 16, `blocks` residual blocks each, then a 1x1 neck; no skip maps."""

    stride = 16
    skip_channels: tuple[int, ...] = ()

    def __init__(self, *, widths: tuple[int, ...] = (32, 64, 128, 256), blocks: int = 2, embed_dim: int = 256) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        stages: list[nn.Module] = []
        channels = 3
        for width in widths:
            for index in range(blocks):
                stages.append(ResidualBlock(channels, width, stride=2 if index == 0 else 1))
                channels = width
        self.stages = nn.Sequential(*stages)
        self.neck = nn.Sequential(nn.Conv2d(channels, embed_dim, 1, bias=False), LayerNorm2d(embed_dim))

    def forward(self, pixels: Tensor) -> ImageFeatures:
        return ImageFeatures(self.neck(self.stages(pixels)))
