"""Boxes as arrays (..., 4): corners x0, y0, x1, y1 (`xyxy`), or x, y, width, height (`xywh`).

Coordinates are pixels of the image with x1 and y1 exclusive: the box of the single pixel (2, 5) is
2, 5, 3, 6, so width is x1 - x0 and a box needs no "+ 1" anywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> np.ndarray:
    """Boxes (..., 4) x, y, width, height as x0, y0, x1, y1, float64."""
    boxes = np.asarray(boxes_xywh, dtype=np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> np.ndarray:
    """Boxes (..., 4) x0, y0, x1, y1 as x, y, width, height, float64."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def clip_boxes_xyxy(boxes_xyxy: ArrayLike, size_hw: tuple[int, int]) -> np.ndarray:
    """Boxes (..., 4) cut off at the image's edges, float64; one wholly outside is left with no area."""
    height, width = size_hw
    return np.clip(np.asarray(boxes_xyxy, dtype=np.float64), 0, [width, height, width, height])


def box_area(boxes_xyxy: ArrayLike) -> np.ndarray:
    """Areas (...) of boxes (..., 4), float64; a box turned inside out has none."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def box_iou_matrix(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> np.ndarray:
    """Intersection over union (K, L) of boxes (K, 4) and (L, 4), float64; 0 where neither has an area."""
    a, b = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) for boxes in (a_xyxy, b_xyxy))
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.prod(np.maximum(bottom_right - top_left, 0), axis=-1)
    # A box turned inside out meets nothing, though two lengths of the formula above could still be positive.
    intersection[(box_area(a) == 0)[:, None] | (box_area(b) == 0)[None]] = 0
    union = box_area(a)[:, None] + box_area(b)[None] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def masks_to_boxes_xyxy(masks_khw: np.ndarray) -> np.ndarray:
    """The tight boxes (K, 4) around masks (K, H, W), float64; zeros for an empty mask."""
    masks: np.ndarray = np.asarray(masks_khw)
    boxes = np.zeros((len(masks), 4))
    if masks.size == 0:
        return boxes
    rows, columns = np.any(masks, axis=2), np.any(masks, axis=1)
    height, width = masks.shape[1:]
    boxes[:, 0], boxes[:, 2] = columns.argmax(axis=1), width - columns[:, ::-1].argmax(axis=1)
    boxes[:, 1], boxes[:, 3] = rows.argmax(axis=1), height - rows[:, ::-1].argmax(axis=1)
    boxes[~rows.any(axis=1)] = 0
    return boxes


def box_nms(boxes_xyxy: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression: the indices (L,), rising, of the boxes (K, 4) that stay. Best box first.

    A box goes when its IoU with an earlier one that stays is above the threshold.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    areas = box_area(boxes)
    remaining = np.arange(len(boxes))
    kept = []
    while remaining.size:
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        others = boxes[remaining]
        sides = np.minimum(others[:, 2:], boxes[best, 2:]) - np.maximum(others[:, :2], boxes[best, :2])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        remaining = remaining[shared <= iou_threshold * (areas[remaining] + areas[best] - shared)]
    return np.array(kept, dtype=np.int64)
