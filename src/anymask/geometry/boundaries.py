"""One pixel wide lines: the boundaries between the regions of a label map, thinning, ridges of a strength map."""

from __future__ import annotations

import math

import cv2
import numpy as np

from anymask.errors import DataError

# Bit of each neighbour in a pixel's code, counter-clockwise from the east; y points down.
_NEIGHBOUR_BITS = np.array([[8, 4, 2], [16, 0, 1], [32, 64, 128]], dtype=np.float32)


def label_boundaries(labels_hw: np.ndarray) -> np.ndarray:
    """The boundaries (H, W) bool between the regions of a label map (H, W) of integers, one pixel wide.

    A pixel is on a boundary when its eastern, southern or south-eastern neighbour has another label; then the line is
    thinned. This makes exactly the boundary maps that BSDS500 keeps beside its segmentations ("measured": all 25 of the
    first five images).
    """
    labels = np.asarray(labels_hw)
    if labels.ndim != 2 or labels.dtype.kind not in "bui":
        raise DataError(f"labels_hw is {labels.dtype} of shape {labels.shape}; allowed: (H, W) bool or integer")
    found = np.zeros(labels.shape, dtype=bool)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    found[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    return thin(found)


def thin(mask_hw: np.ndarray) -> np.ndarray:
    """A mask (H, W) worn down to lines one pixel wide, as connected as it was.

    Guo and Hall's parallel thinning with two sub-iterations (Lam, Lee and Suen, 1992, section IV), repeated until
    nothing changes: what "thinning" means in the boundary benchmarks. The answer is scikit-image's `thin`, ten times
    as fast ("measured": 4 instead of 40 ms for an edge map of 321x481), which a hundred thresholds an image need.
    """
    mask = np.asarray(mask_hw).astype(bool)
    if mask.ndim != 2:
        raise DataError(f"mask_hw has shape {mask.shape}; allowed: (H, W)")
    pixels = np.pad(mask, 1).view(np.uint8)
    before = -1
    while (count := int(np.count_nonzero(pixels))) != before:
        before = count
        for table in _REMOVABLE:
            codes = cv2.filter2D(pixels, cv2.CV_8U, _NEIGHBOUR_BITS, borderType=cv2.BORDER_CONSTANT)
            pixels &= cv2.LUT(codes, table).astype(np.uint8)
    return pixels[1:-1, 1:-1].astype(bool)


def ridges(strength_hw: np.ndarray, sigma: float) -> np.ndarray:
    """A strength map (H, W) float with zeros off its ridges: edge non-maximum suppression.

    The direction across a ridge is the one of strongest curvature after a Gaussian of `sigma` pixels, downward on the
    crest and upward at its foot; a pixel stays when neither of the two values one pixel away in it, interpolated, is
    larger.
    """
    strength = np.asarray(strength_hw, dtype=np.float32)
    smooth = cv2.GaussianBlur(strength, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    second = {
        orders: cv2.Sobel(smooth, cv2.CV_32F, *orders, ksize=5, borderType=cv2.BORDER_REFLECT)
        for orders in ((2, 0), (1, 1), (0, 2))
    }
    # The axis of the larger (signed) curvature; where both sum up to less than nothing, the other one is stronger.
    across = 0.5 * np.arctan2(2 * second[1, 1], second[2, 0] - second[0, 2])
    across[second[2, 0] + second[0, 2] < 0] += math.pi / 2
    across_x, across_y = np.cos(across), np.sin(across)
    rows, columns = np.indices(strength.shape, dtype=np.float32)
    is_ridge = strength > 0
    for side in (-1, 1):
        x, y = (columns + side * across_x).astype(np.float32), (rows + side * across_y).astype(np.float32)
        beside = cv2.remap(strength, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        # A hair's tolerance: interpolation in 32nds of a pixel must not break flat tops.
        is_ridge &= strength * np.float32(1.01) >= beside
    return np.where(is_ridge, strength, np.float32(0))


def _removable_tables() -> tuple[np.ndarray, np.ndarray]:
    """For each code of eight neighbours 0 where a pixel may go, else 255, in the first and second sub-iteration."""
    tables = np.full((2, 256), 255, dtype=np.uint8)
    for code in range(256):
        near = [bool(code >> bit & 1) for bit in range(8)]  # near[0] is the east, near[2] the north
        pairs = range(1, 5)
        crossings = sum(not near[2 * k - 2] and (near[2 * k - 1] or near[2 * k % 8]) for k in pairs)
        one_way = sum(near[2 * k - 2] or near[2 * k - 1] for k in pairs)
        other_way = sum(near[2 * k - 1] or near[2 * k % 8] for k in pairs)
        if crossings != 1 or not 2 <= min(one_way, other_way) <= 3:
            continue
        if not ((near[1] or near[2] or not near[7]) and near[0]):
            tables[0, code] = 0
        if not ((near[5] or near[6] or not near[3]) and near[4]):
            tables[1, code] = 0
    return tables[0], tables[1]


_REMOVABLE = _removable_tables()
