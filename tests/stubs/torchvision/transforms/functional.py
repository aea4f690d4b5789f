"""Arrays to PIL images and back in another size."""

from __future__ import annotations

import numpy as np
from PIL import Image


def to_pil_image(array: np.ndarray) -> Image.Image:
    """An (H, W, 3) uint8 array as a PIL image."""
    return Image.fromarray(array)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bilinear, with the antialiasing that PIL always does; `size` is height, width."""
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
