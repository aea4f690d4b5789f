"""The scene that the suites are tried on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from known_scene import Scene
from PIL import Image

from anymask.data.sa1b import write_sa1b


@pytest.fixture
def scene(tmp_path: Path, photo: tuple[np.ndarray, np.ndarray]) -> Scene:
    """The made-up photograph with its four ellipses, its mirror with three, and its upside down with one."""
    image, masks_khw = photo
    folder = tmp_path / "shapes" / "test"
    folder.mkdir(parents=True)
    images = [image, np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(image[::-1])]
    masks = [masks_khw, masks_khw[:3, :, ::-1].copy(), masks_khw[:1, ::-1].copy()]
    names = ["a.png", "b.png", "c.png"]
    for name, pixels, truth in zip(names, images, masks, strict=True):
        Image.fromarray(pixels).save(folder / name)
        write_sa1b((folder / name).with_suffix(".json"), name, truth.shape[1:], truth)
    return Scene(folder, names, images, masks)
