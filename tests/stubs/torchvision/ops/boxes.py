"""Areas of boxes and non-maximum suppression within classes."""

from __future__ import annotations

import torch
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Areas (N,) of boxes (N, 4) given as x0, y0, x1, y1."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(-1)
    return width * height


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that stay, best score first; only boxes of equal `idxs` suppress each other."""
    order = scores.argsort(descending=True, stable=True)
    kept: list[Tensor] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        overlaps = _iou(boxes[best], boxes[rest])
        order = rest[(overlaps <= iou_threshold) | (idxs[rest] != idxs[best])]
    return torch.stack(kept) if kept else order


def _iou(box: Tensor, boxes: Tensor) -> Tensor:
    sides = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])
    shared = sides.clamp(min=0).prod(dim=1)
    return shared / (box_area(box[None]) + box_area(boxes) - shared)
