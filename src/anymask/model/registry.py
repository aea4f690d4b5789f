"""The models that exist by name, built with fresh weights. Sources: paper A for the ViTs; `tiny` is our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from anymask.errors import CheckpointError
from anymask.model.conv_encoder import ConvEncoder
from anymask.model.image_encoder import ImageEncoder, ViTEncoder
from anymask.model.mask_decoder import MaskDecoder
from anymask.model.prompt_encoder import PromptEncoder
from anymask.model.segmenter import InputSpec, Segmenter
from anymask.model.tiny_encoder import TinyEncoder
from anymask.model.tiny_vit_encoder import TinyViTEncoder
from anymask.model.transformer import TwoWayTransformer

# Mean and spread of ImageNet pixels on 0 to 255, as the reference normalises.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Regularisation:
    """What only training sets: stochastic depth in the encoder, dropout in the decoder."""

    drop_path: float = 0.0
    dropout: float = 0.0


def build_sam_vit(
    name: str, width: int, depth: int, num_heads: int, global_blocks: tuple[int, ...], rates: Regularisation
) -> Segmenter:
    """The paper's model (A): ViT at 1024 pixels, 256 channels, two-way decoder 8 heads and 2048 wide."""
    encoder = ViTEncoder(
        width=width,
        depth=depth,
        num_heads=num_heads,
        global_blocks=global_blocks,
        drop_path=rates.drop_path,
    )
    spec = InputSpec(1024, None, IMAGENET_MEAN, IMAGENET_STD)
    return assemble(name, encoder, spec, num_heads=8, mlp_dim=2048, head_dim=256, rates=rates)


def build_mobile_sam(rates: Regularisation) -> Segmenter:
    """SAM with an image encoder of 6 M parameters instead of 90 or more (arXiv 2306.14289)."""
    spec = InputSpec(1024, None, IMAGENET_MEAN, IMAGENET_STD)
    encoder = TinyViTEncoder(drop_path=rates.drop_path)
    return assemble("mobile_sam", encoder, spec, num_heads=8, mlp_dim=2048, head_dim=256, rates=rates)


def build_tiny(rates: Regularisation, name: str = "tiny", embed_dim: int = 192) -> Segmenter:
    """About 5.4 M parameters at 512 pixels; pixels on [-1, 1] because its ImageNet start wants them so.

    `embed_dim` is the width of everything above the convolutional stages; "tiny_narrow" has half of it.
    """
    spec = InputSpec(512, 32, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
    encoder = TinyEncoder(embed_dim=embed_dim, drop_path=rates.drop_path)
    return assemble(
        name,
        encoder,
        spec,
        num_heads=6,
        mlp_dim=512,
        head_dim=embed_dim,
        rates=rates,
        has_click_features=True,
        fine_channels=encoder.embed_dim // 8,
        # "Measured" on held-out objects: 0.02 to 0.12 differ by little, see docs/experiments.md.
        consensus=0.03,
        has_second_look=True,
        # GELU takes a sixth of a click in a browser ("measured": 28.6 and 24.0 ms), and gains nothing here.
        activation=partial(nn.ReLU, inplace=True),
    )


def build_conv(rates: Regularisation) -> Segmenter:
    """A plain ResNet-like encoder under the paper's decoder; an example of another encoder, without weights."""
    spec = InputSpec(512, 16, IMAGENET_MEAN, IMAGENET_STD)
    return assemble("conv", ConvEncoder(), spec, num_heads=8, mlp_dim=2048, head_dim=256, rates=rates)


def assemble(
    name: str,
    encoder: ImageEncoder,
    spec: InputSpec,
    *,
    num_heads: int,
    mlp_dim: int,
    head_dim: int,
    rates: Regularisation,
    has_click_features: bool = False,
    fine_channels: int | None = None,
    consensus: float | None = None,
    has_second_look: bool = False,
    activation: Callable[[], nn.Module] = nn.GELU,
) -> Segmenter:
    """Any image encoder with a prompt encoder and a mask decoder of its width."""
    click_channels = (encoder.embed_dim, *encoder.skip_channels) if has_click_features else None
    prompt_encoder = PromptEncoder(
        encoder.embed_dim,
        mask_channels=32 if fine_channels else 16,
        click_channels=click_channels,
        fine_channels=fine_channels,
    )
    transformer = TwoWayTransformer(2, encoder.embed_dim, num_heads, mlp_dim, dropout=rates.dropout)
    decoder = MaskDecoder(
        embed_dim=encoder.embed_dim,
        transformer=transformer,
        head_dim=head_dim,
        consensus=consensus,
        has_second_look=has_second_look,
        activation=activation,
    )
    return Segmenter(name, encoder, prompt_encoder, decoder, spec)


BUILDERS: dict[str, Callable[[Regularisation], Segmenter]] = {
    "tiny": build_tiny,
    "conv": build_conv,
    "vit_b": lambda rates: build_sam_vit("vit_b", 768, 12, 12, (2, 5, 8, 11), rates),
    "vit_l": lambda rates: build_sam_vit("vit_l", 1024, 24, 16, (5, 11, 17, 23), rates),
    "vit_h": lambda rates: build_sam_vit("vit_h", 1280, 32, 16, (7, 15, 23, 31), rates),
    "mobile_sam": build_mobile_sam,
    "tiny_narrow": lambda rates: build_tiny(rates, "tiny_narrow", 96),
}


def build_model(name: str, rates: Regularisation | None = None) -> Segmenter:
    """A model by name with fresh weights, in training mode. Raises `CheckpointError` for an unknown name."""
    if name not in BUILDERS:
        raise CheckpointError(f"model {name!r} is not known; the models are {', '.join(BUILDERS)}")
    return BUILDERS[name](rates or Regularisation())
