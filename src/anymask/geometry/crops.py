"""Where automatic generation looks: overlapping crops of an image and grids of points in them (paper, section B)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np


@dataclass(frozen=True)
class Crop:
    """A part of an image: its box in whole pixels, and its layer (0 the whole image, higher is more zoomed in)."""

    layer: int
    box_xyxy: tuple[int, int, int, int]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        x0, y0, x1, y1 = self.box_xyxy
        return y1 - y0, x1 - x0

    @property
    def box_xywh(self) -> tuple[float, float, float, float]:
        """The box as x, y, width, height."""
        x0, y0, x1, y1 = self.box_xyxy
        return float(x0), float(y0), float(x1 - x0), float(y1 - y0)


def layered_crops(size_hw: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole image, then for each layer n its 2**n x 2**n crops, in rows from the top left.

    Neighbours of the first layer share `overlap_ratio` of the image's shorter side, those of each further
    layer half as much, so that every layer's crops overlap alike in their own size (as the reference does).
    An image with fewer pixels than crops along a side has fewer crops.
    """
    height, width = size_hw
    crops = [Crop(0, (0, 0, width, height))]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(size_hw) * 2 / count)
        spans_x, spans_y = _spans(width, count, overlap), _spans(height, count, overlap)
        crops += [Crop(layer, (x0, y0, x1, y1)) for (y0, y1), (x0, x1) in product(spans_y, spans_x)]
    return crops


def _spans(length: int, count: int, overlap: int) -> list[tuple[int, int]]:
    """`count` equally long spans over 0 to `length`, each sharing `overlap` with the next; the last ends there."""
    span = ceil((overlap * (count - 1) + length) / count)
    starts = [index * (span - overlap) for index in range(count)]
    return [(start, min(start + span, length)) for start in starts if start < length]


def point_grid(points_per_side: int) -> np.ndarray:
    """The centres (N * N, 2) x, y, row by row, of N x N equal cells that fill the unit square, float64."""
    centres = (np.arange(points_per_side) + 0.5) / points_per_side
    return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)


def touches_inner_border(box_xyxy: tuple[float, ...], crop: Crop, size_hw: tuple[int, int], tolerance: float) -> bool:
    """Whether a box (image pixels) comes within `tolerance` pixels of an edge of the crop that is inside the image.

    What is there probably goes on beyond the crop. A side that also lies within `tolerance` of the image's
    own edge is no such place.
    """
    edges = (0, 0, size_hw[1], size_hw[0])
    return any(
        abs(side - border) <= tolerance < abs(side - edge)
        for side, border, edge in zip(box_xyxy, crop.box_xyxy, edges, strict=True)
    )
