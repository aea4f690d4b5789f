"""A small SAM with the same random weights in this package's compatible classes and in Meta's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from compat_networks import Pair, build_compatible_sam
from small_networks import randomise
from torch import nn

from anymask.compat.segment_anything import modeling


@pytest.fixture(scope="session")
def compatible_sam() -> modeling.Sam:
    """Random in every parameter; shared by all tests, leave it as it is."""
    sam = build_compatible_sam()
    randomise(sam, seed=21)
    return sam


@pytest.fixture(scope="session")
def pair(compatible_sam: modeling.Sam, build_meta_sam: Callable[[], nn.Module]) -> Pair:
    metas = build_meta_sam()
    metas.load_state_dict(compatible_sam.state_dict(), strict=True)
    return Pair(compatible_sam, metas)


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """An image 75x100, neither square nor of the network's size, with shapes in it."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:75, :100]
    image = np.stack([2 * columns, 3 * rows, 255 - columns - rows], axis=-1).astype(np.float64)
    image[(rows - 30) ** 2 + (columns - 40) ** 2 < 300] = (220, 40, 30)
    image[50:70, 60:95] = (30, 60, 200)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
