"""Clicks on masks: the centre of one, the next correction, a random place.

A point is (x, y), the column and row of a pixel as floats. The farthest pixel from a region's boundary is
found with an exact Euclidean distance transform in which the image's border is a boundary too.
"""

from __future__ import annotations

import cv2
import numpy as np

from anymask.errors import PromptError


def mask_centre_xy(mask_hw: np.ndarray) -> tuple[float, float]:
    """The pixel of a mask (H, W) farthest from its boundary, as (x, y); the first in row order of equals.

    "The centre of the true mask, the point farthest from its boundary" (paper, section D.1). It always lies
    on the mask, unlike the mean. Raises PromptError when the mask is empty.
    """
    mask = _bool_mask(mask_hw)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise PromptError(f"mask_hw of shape {mask.shape} is empty; allowed: at least one true pixel")
    top, left = rows[0], columns[0]
    # The frame of zeros stands for everything beyond the box: no pixel outside it can be a nearer boundary,
    # so the transform of the crop is that of the whole image.
    region = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).view(np.uint8)
    distance = cv2.distanceTransform(region, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances are whole numbers; rounding makes equal ones exactly equal, hence the first one wins. Only the
    # largest are looked at, which are as good as equal: squares of all would take longer than the transform.
    largest = np.flatnonzero(distance >= distance.max() * (1 - 1e-6))
    squared = np.rint(np.square(distance.ravel()[largest], dtype=np.float64))
    row, column = divmod(int(largest[squared.argmax()]), region.shape[1])
    return float(column - 1 + left), float(row - 1 + top)


def next_click(truth_hw: np.ndarray, predicted_hw: np.ndarray) -> tuple[tuple[float, float], int]:
    """The click that corrects a prediction most: ((x, y), label) for masks (H, W) of equal shape.

    The pixel of the error region (where the two differ) farthest from that region's boundary (paper, section
    D.1); label 1 where the prediction missed the truth, 0 where it is too much. Without any error it is the
    centre of the truth with label 1. Raises PromptError when the shapes differ or both masks are empty.
    """
    truth, predicted = _bool_mask(truth_hw), _bool_mask(predicted_hw)
    if truth.shape != predicted.shape:
        raise PromptError(f"predicted_hw has shape {predicted.shape}; allowed: that of truth_hw, {truth.shape}")
    error = truth ^ predicted
    if not error.any():
        return mask_centre_xy(truth), 1
    x, y = mask_centre_xy(error)
    return (x, y), int(truth[int(y), int(x)])


def random_point_xy(mask_hw: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """A pixel of a mask (H, W), each equally likely, as (x, y). Raises PromptError when the mask is empty."""
    mask = _bool_mask(mask_hw)
    candidates = np.flatnonzero(mask)
    if candidates.size == 0:
        raise PromptError(f"mask_hw of shape {mask.shape} is empty; allowed: at least one true pixel")
    row, column = divmod(int(candidates[rng.integers(candidates.size)]), mask.shape[1])
    return float(column), float(row)


def _bool_mask(mask_hw: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask_hw)
    if mask.ndim != 2:
        raise PromptError(f"a mask has shape {mask.shape}; allowed: (H, W)")
    return mask.astype(bool, copy=False)
