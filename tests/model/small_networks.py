"""Networks small enough for every test, with every parameter random, and how two signals are compared."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from anymask.model.image_encoder import ViTEncoder
from anymask.model.registry import IMAGENET_MEAN, IMAGENET_STD, Regularisation, assemble
from anymask.model.segmenter import InputSpec, Segmenter

# A ViT small enough for every test; 16 x 16 cells do not divide into windows of 14, so windows are padded.
SMALL = {"width": 64, "depth": 4, "num_heads": 4, "global_blocks": (1, 3), "input_size": 256, "embed_dim": 64}
SMALL_MLP = 128
TABLES = re.compile(
    r"pos_embed$|rel_pos_[hw]$|positional_|_tokens?\.weight$|_embed\.weight$|point_embed(dings)?\.\d\.weight$"
)


def build_small_sam() -> Segmenter:
    """The paper's architecture in small: same modules, same keys."""
    spec = InputSpec(SMALL["input_size"], None, IMAGENET_MEAN, IMAGENET_STD)
    encoder = ViTEncoder(**SMALL)
    rates = Regularisation()
    return assemble("small", encoder, spec, num_heads=8, mlp_dim=SMALL_MLP, head_dim=32, rates=rates)


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> None:
    """Every parameter and persistent buffer random, the zero-initialised ones too.

    Signals stay near 1: matrices get a spread of fan-in ** -0.5, norms' weights lie around 1.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = module.state_dict(keep_vars=True)
    norms = {f"{name}.weight" for name, part in module.named_modules() if "norm" in type(part).__name__.lower()}
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
    """Embeddings, positions and the Fourier matrix: looked up or added, not summed over channels."""
    return TABLES.search(name) is not None


def assert_close(actual: Tensor, expected: Tensor, relative: float) -> None:
    """max|a - b| <= relative * max|b|, of signals that are neither dead nor blown up."""
    assert actual.shape == expected.shape
    size = float(expected.abs().max())
    assert 1e-2 < size < 1e4, f"a signal of size {size} shows nothing"
    assert expected.numel() == 1 or float(expected.std()) > 1e-3
    difference = float((actual.double() - expected.double()).abs().max())
    assert difference <= relative * size, f"differs by {difference / size:.2e} of the largest value"
