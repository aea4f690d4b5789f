"""How much masks overlap."""

from __future__ import annotations

import numpy as np

from anymask.errors import DataError

# Pixels per matrix product: bounds the float32 copies, and sums below 2**24 are exact in float32.
_PIXELS_AT_ONCE = 1 << 20


def mask_iou(a_hw: np.ndarray, b_hw: np.ndarray) -> float:
    """Intersection over union of two masks (H, W); 0 when both are empty, for neither found anything."""
    a, b = (np.asarray(mask).astype(bool, copy=False) for mask in (a_hw, b_hw))
    _require_same_size(a.shape, b.shape)
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


def mask_iou_matrix(a_khw: np.ndarray, b_lhw: np.ndarray) -> np.ndarray:
    """Intersection over union (K, L), float64, of masks (K, H, W) and (L, H, W); 0 where both are empty."""
    a, b = (np.asarray(masks).astype(bool, copy=False) for masks in (a_khw, b_lhw))
    _require_same_size(a.shape[1:], b.shape[1:])
    pixel_count = int(np.prod(a.shape[1:]))
    a, b = a.reshape(len(a), pixel_count), b.reshape(len(b), pixel_count)
    intersection = np.zeros((len(a), len(b)))
    for start in range(0, pixel_count, _PIXELS_AT_ONCE):
        part = slice(start, start + _PIXELS_AT_ONCE)
        intersection += a[:, part].astype(np.float32) @ b[:, part].astype(np.float32).T
    union = np.count_nonzero(a, axis=1)[:, None] + np.count_nonzero(b, axis=1)[None] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def _require_same_size(a_hw: tuple[int, ...], b_hw: tuple[int, ...]) -> None:
    """Broadcasting would quietly compare masks of different images."""
    if len(a_hw) != 2 or a_hw != b_hw:
        raise DataError(f"masks have sizes {a_hw} and {b_hw}; allowed: one size (H, W) for both")
