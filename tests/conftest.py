"""Fixtures that every test may use: a seeded generator, a made-up photograph, the folder of real data."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from torch import nn

    from anymask.model.segmenter import Segmenter

FOLDER = Path(__file__).resolve().parent
STUBS = FOLDER / "stubs"
# `small_networks`, which other folders' tests use too; pytest puts that folder on the path only when it runs its tests.
sys.path.append(str(FOLDER / "model"))

# The same examples on every machine and run; slow runners must not fail on time.
settings.register_profile("anymask", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("anymask")


class Photo(NamedTuple):
    """A made-up photograph: image (H, W, 3) uint8 and the true masks (K, H, W) bool of its objects."""

    image: np.ndarray
    masks_khw: np.ndarray


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Two threads for torch, in tests that use it at all: more only get in each other's way."""
    torch = sys.modules.get("torch")
    threads = min(2, int(os.environ.get("OMP_NUM_THREADS", "2")))
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator that gives every test the same numbers each run."""
    return np.random.default_rng(20240229)


@pytest.fixture
def photo() -> Photo:
    """120x160: four textured ellipses of different colour and size, none overlapping, on noisy ground."""
    rng = np.random.default_rng(7)
    height, width = 120, 160
    rows, columns = np.mgrid[:height, :width]
    ground = np.stack([90 + 0.3 * columns, 110 + 0.2 * rows, np.full((height, width), 80.0)], axis=-1)
    ellipses = [  # centre xy, half axes, angle, colour, stripe period
        ((40, 35), (28, 18), 20, (200, 60, 50), 7),
        ((115, 40), (20, 30), 0, (60, 90, 210), 5),
        ((45, 90), (12, 12), 0, (230, 210, 70), 9),
        ((110, 98), (34, 10), -15, (40, 160, 90), 6),
    ]
    masks = np.zeros((len(ellipses), height, width), dtype=np.uint8)
    for mask, (centre_xy, axes, angle, colour, period) in zip(masks, ellipses, strict=True):
        cv2.ellipse(mask, centre_xy, axes, angle, 0, 360, 1, thickness=-1)
        stripes = 25 * np.sin((rows + columns) * (2 * np.pi / period))
        ground[mask == 1] = (np.array(colour) + stripes[..., None])[mask == 1]
    image = np.clip(ground + rng.normal(0, 6, ground.shape), 0, 255).astype(np.uint8)
    return Photo(image, masks.view(bool))


@pytest.fixture(scope="session")
def random_tiny() -> Segmenter:
    """`tiny` at 256 pixels with random weights, none zero, so large that answers differ from place to place.

    Shared by all tests: leave it as it is.
    """
    from dataclasses import replace

    import torch

    from anymask.model.registry import build_model

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        model = build_model("tiny").eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
            else:
                parameter.mul_(2.2)
    model.input_spec = replace(model.input_spec, longest_side=256)
    return model


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and masks: ANYMASK_DATA, or `../shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ANYMASK_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set ANYMASK_DATA to the folder that holds it")
    return folder


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
    from small_networks import SMALL, SMALL_MLP
    from torch import nn

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
