"""Large-scale jitter, flips and colour for training crops (paper A: jitter on small data alone).

All on uint8 numpy arrays, with a numpy generator, so that a sample is a pure function of its seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anymask.geometry.resize import resize_image


@dataclass(frozen=True)
class Augmentation:
    """`scale_range` is the longest side of the scaled image relative to the crop (paper A: 0.1 to 2.0)."""

    scale_range: tuple[float, float] = (1.0, 1.0)
    aspect_jitter: float = 0.0
    flip: bool = False
    colour: float = 0.0


@dataclass(frozen=True)
class Crop:
    """A window of a source image of `size_hw`, resized to `target_hw`, at the top left of a square of `crop_size`."""

    size_hw: tuple[int, int]
    x0: int
    y0: int
    x1: int
    y1: int
    target_hw: tuple[int, int]
    crop_size: int
    is_flipped: bool

    @property
    def scale(self) -> float:
        """How large the source is wanted, as a share of its size, 1 at most."""
        return min(1.0, max(self.target_hw[0] / (self.y1 - self.y0), self.target_hw[1] / (self.x1 - self.x0)))

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The crop of an HxWx3 image or an HxW mask, zero where nothing is left of the source.

        The image may have been decoded smaller than `size_hw`; the window is then rounded to its pixels.
        """
        (height, width), (shrink_y, shrink_x) = image.shape[:2], np.divide(image.shape[:2], self.size_hw)
        y0, y1 = _window(self.y0 * shrink_y, self.y1 * shrink_y, height)
        x0, x1 = _window(self.x0 * shrink_x, self.x1 * shrink_x, width)
        window = np.ascontiguousarray(image[y0:y1, x0:x1])
        window = resize_image(window, self.target_hw)
        if self.is_flipped:
            window = window[:, ::-1]
        padded = np.zeros((self.crop_size, self.crop_size, *image.shape[2:]), dtype=image.dtype)
        padded[: self.target_hw[0], : self.target_hw[1]] = window
        return padded


def _window(start: float, stop: float, size: int) -> tuple[int, int]:
    """Whole pixels nearest to a span, at least one of them."""
    first = min(round(start), size - 1)
    return first, max(first + 1, min(round(stop), size))


def draw_crop(size_hw: tuple[int, int], crop_size: int, augmentation: Augmentation, rng: np.random.Generator) -> Crop:
    """A random window; at scale 1 without jitter the whole image, its longest side resized to `crop_size`."""
    height, width = size_hw
    low, high = augmentation.scale_range
    scale = np.exp(rng.uniform(np.log(low), np.log(high))) * crop_size / max(height, width)
    aspect = np.exp(rng.uniform(-augmentation.aspect_jitter, augmentation.aspect_jitter) / 2)
    scale_y, scale_x = scale / aspect, scale * aspect
    window_h, window_w = (max(1, min(side, round(crop_size / s))) for side, s in ((height, scale_y), (width, scale_x)))
    y0 = int(rng.integers(height - window_h + 1))
    x0 = int(rng.integers(width - window_w + 1))
    target_hw = tuple(max(1, min(crop_size, round(side * s))) for side, s in ((window_h, scale_y), (window_w, scale_x)))
    is_flipped = augmentation.flip and bool(rng.random() < 0.5)
    return Crop(
        (height, width), x0, y0, x0 + window_w, y0 + window_h, (target_hw[0], target_hw[1]), crop_size, is_flipped
    )


def jitter_colour(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, a shift per channel; now and then grey, a negative or other hues; HxWx3 uint8."""
    if strength == 0:
        return image
    pixels = image.astype(np.float32)
    if rng.random() < 0.15 * min(strength, 1.0):
        pixels[:] = pixels.mean(axis=2, keepdims=True)
    if rng.random() < 0.05 * min(strength, 1.0):
        pixels = 255 - pixels
    if rng.random() < 0.15 * min(strength, 1.0):
        pixels = pixels[..., rng.permutation(3)]  # hues that no photograph has, as stains and scans do
    contrast = np.exp(rng.uniform(-0.4, 0.4) * strength)
    shift = rng.uniform(-40, 40) * strength + rng.uniform(-15, 15, size=3) * strength
    mean = pixels.mean()
    pixels = (pixels - mean) * contrast + mean + shift
    if rng.random() < 0.15 * min(strength, 1.0):
        pixels = cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.4, 1.2)))
    return np.clip(pixels, 0, 255).astype(np.uint8)
