"""One set of random weights in three networks, and one made-up photograph.

Every parameter is random: the peers start relative positions and the position embedding at zero, and with those a
wrong one would give the same answer. Without trained weights every network is as fast as with them, but less forgiving:
a click's logits in float32 lie 2e-4 of the largest from those in float64, ours and Meta's alike ("measured").
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from anymask.model.huggingface import from_huggingface
from anymask.model.registry import build_model
from anymask.model.segmenter import Segmenter
from anymask.model.zoo import load_model

IMAGE_HW = (1200, 1800)
MODEL = "vit_b"
STUBS = Path(__file__).resolve().parents[1] / "tests" / "stubs"


def photograph(size_hw: tuple[int, int] = IMAGE_HW) -> np.ndarray:
    """Soft blotches and grain, (H, W, 3) uint8, always the same."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (12, 18, 3)).astype(np.uint8)
    blotches = cv2.resize(small, size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    grain = random.integers(-12, 13, (*size_hw, 1))
    return np.clip(blotches.astype(int) + grain, 0, 255).astype(np.uint8)


def model_pixels(count: int = 1) -> Tensor:
    """Normalised pixels (count, 3, 1024, 1024) for comparing encoders: the same for all, to the bit."""
    return torch.randn(count, 3, 1024, 1024, generator=torch.Generator().manual_seed(1))


@cache
def random_state(name: str = MODEL) -> dict[str, Tensor]:
    """Weights under the reference's keys; the spreads keep every signal near 1."""
    state = build_model(name).state_dict()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if key.endswith("bias"):
            tensor.copy_(0.1 * noise)
        elif tensor.ndim == 1:
            tensor.copy_(1 + 0.1 * noise)
        elif "pos" in key or "embed" in key or "token" in key:
            tensor.copy_(0.3 * noise)
        else:
            tensor.copy_(noise * tensor[0].numel() ** -0.5)
    return state


def ours(name: str = MODEL, **options: Any) -> Segmenter:
    """Our network, loaded as a user loads it."""
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile(suffix=".pth") as file:
        torch.save(random_state(name), file.name)
        return load_model(name, file.name, device="cpu", **options)


def metas(name: str = MODEL) -> nn.Module:
    """Meta's `segment-anything`; where torchvision is missing, over the four small functions it needs of it."""
    if find_spec("torchvision") is None:
        sys.path.insert(0, str(STUBS))
    from segment_anything import sam_model_registry

    model = sam_model_registry[name]()
    model.load_state_dict(random_state(name), strict=True)
    return model.eval().requires_grad_(False)


def huggingfaces(name: str = MODEL) -> nn.Module:
    """transformers' `SamModel`, with the decoder's epsilon as Meta's model has it."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamVisionConfig

    shapes = {"vit_b": (768, 12, 12, [2, 5, 8, 11]), "vit_l": (1024, 24, 16, [5, 11, 17, 23])}
    width, depth, heads, global_blocks = shapes[name]
    vision = SamVisionConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, global_attn_indexes=global_blocks
    )
    decoder = SamMaskDecoderConfig(layer_norm_eps=1e-5)
    model = SamModel(SamConfig(vision_config=vision.to_dict(), mask_decoder_config=decoder.to_dict()))
    renamed = {key: next(iter(from_huggingface({key: tensor}))) for key, tensor in model.state_dict().items()}
    model.load_state_dict({key: random_state(name)[reference] for key, reference in renamed.items()}, strict=True)
    return model.eval().requires_grad_(False)
