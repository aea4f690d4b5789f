"""Small networks with every parameter random, and the two peers they are compared with."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from anymask.model.image_encoder import ViTEncoder
from anymask.model.registry import IMAGENET_MEAN, IMAGENET_STD, Regularisation, assemble
from anymask.model.segmenter import InputSpec, Segmenter

STUBS = Path(__file__).resolve().parents[1] / "stubs"

# A ViT small enough for every test; 16 x 16 cells do not divide into windows of 14, so windows are padded.
SMALL = {"width": 64, "depth": 4, "num_heads": 4, "global_blocks": (1, 3), "input_size": 256, "embed_dim": 64}
SMALL_MLP = 128


def build_small_sam() -> Segmenter:
    """The paper's architecture in small: same modules, same keys."""
    spec = InputSpec(SMALL["input_size"], None, IMAGENET_MEAN, IMAGENET_STD)
    encoder = ViTEncoder(**SMALL)
    rates = Regularisation()
    return assemble("small", encoder, spec, num_heads=8, mlp_dim=SMALL_MLP, head_dim=32, rates=rates)


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> None:
    """Every parameter and persistent buffer random, the zero-initialised ones too, at scales that keep signals near 1.

    Matrices get a spread of fan-in ** -0.5, norms' weights lie around 1.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = module.state_dict(keep_vars=True)
    norms = {
        f"{name}.weight"
        for name, part in module.named_modules()
        if "norm" in type(part).__name__.lower()
    }
    for name, tensor in tensors.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name in norms:
            tensor.copy_(1 + 0.2 * noise)
        elif name.endswith(".bias"):
            tensor.copy_(0.2 * noise)
        elif tensor.ndim >= 2 and not _is_table(name):
            transposed = tensor.ndim == 4 and ("upscal" in name or "upscale" in name)
            fan_in = tensor.shape[0] if transposed else tensor[0].numel()
            tensor.copy_(noise * fan_in**-0.5)
        else:
            tensor.copy_(0.5 * noise)


def _is_table(name: str) -> bool:
    """Embeddings, positions and the Fourier matrix: looked up or added, not multiplied into a sum over channels."""
    return any(word in name for word in ("pos", "token", "embed.weight", "embeddings", "point_embed"))


def assert_close(actual: Tensor, expected: Tensor, relative: float) -> None:
    """max|a - b| <= relative * max|b|, of signals that are neither dead nor blown up."""
    assert actual.shape == expected.shape
    size = float(expected.abs().max())
    assert 1e-2 < size < 1e4, f"a signal of size {size} shows nothing"
    assert expected.numel() == 1 or float(expected.std()) > 1e-3
    difference = float((actual.double() - expected.double()).abs().max())
    assert difference <= relative * size, f"differs by {difference / size:.2e} of the largest value"


@pytest.fixture
def small_sam() -> Segmenter:
    model = build_small_sam().eval().requires_grad_(False)
    randomise(model, seed=1)
    return model


@pytest.fixture(scope="session")
def meta_package() -> ModuleType:
    """Meta's `segment_anything`, over the stub where torchvision is not installed."""
    if importlib.util.find_spec("segment_anything") is None:
        pytest.skip("Meta's segment-anything is not installed (pip install --no-deps segment-anything==1.0)")
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("segment_anything")
    # The stub is gone again after the import, or transformers would take it for the whole of torchvision.
    sys.path.insert(0, str(STUBS))
    try:
        return importlib.import_module("segment_anything")
    finally:
        sys.path.remove(str(STUBS))
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]


@pytest.fixture(scope="session")
def build_meta_sam(meta_package: ModuleType) -> Callable[[], nn.Module]:
    """Meta's Sam in the small shape."""
    from functools import partial

    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    size, dim = SMALL["input_size"], SMALL["embed_dim"]

    def build() -> nn.Module:
        encoder = ImageEncoderViT(
            img_size=size,
            embed_dim=SMALL["width"],
            depth=SMALL["depth"],
            num_heads=SMALL["num_heads"],
            out_chans=dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=SMALL["global_blocks"],
        )
        prompts = PromptEncoder(dim, (size // 16, size // 16), (size, size), 16)
        transformer = TwoWayTransformer(depth=2, embedding_dim=dim, num_heads=8, mlp_dim=SMALL_MLP)
        decoder = MaskDecoder(transformer_dim=dim, transformer=transformer, iou_head_hidden_dim=32)
        return Sam(encoder, prompts, decoder).eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def build_huggingface_sam() -> Callable[[], nn.Module]:
    """transformers' SamModel in the small shape."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    size, dim = SMALL["input_size"], SMALL["embed_dim"]

    def build() -> nn.Module:
        vision = transformers.SamVisionConfig(
            hidden_size=SMALL["width"],
            num_hidden_layers=SMALL["depth"],
            num_attention_heads=SMALL["num_heads"],
            global_attn_indexes=list(SMALL["global_blocks"]),
            image_size=size,
            output_channels=dim,
            num_pos_feats=dim // 2,
        )
        prompts = transformers.SamPromptEncoderConfig(hidden_size=dim, image_size=size)
        # The reference's decoder norms have PyTorch's epsilon; transformers' default of 1e-6 departs from it.
        decoder = transformers.SamMaskDecoderConfig(
            hidden_size=dim, mlp_dim=SMALL_MLP, iou_head_hidden_dim=32, layer_norm_eps=1e-5
        )
        config = transformers.SamConfig(
            vision_config=vision.to_dict(),
            prompt_encoder_config=prompts.to_dict(),
            mask_decoder_config=decoder.to_dict(),
        )
        return transformers.SamModel(config).eval().requires_grad_(False)

    return build
