"""Masks as polygons and back, in two frames.

`mask_to_polygons` runs through the centres of a region's outermost pixels: whole numbers name pixels, as
OpenCV draws them. `mask_to_outlines` runs along the edges of the pixels: (0, 0) is the image's corner and the
single pixel (2, 5) is the square 2, 5 to 3, 6, as polygon files have it (COCO, YOLO, LabelMe). Outlines give
the mask back exactly, single pixels and lines one pixel wide included.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from anymask.errors import DataError
from anymask.geometry.rle import Rle, decode_rle, encode_rle, rle_area

# A simplified outline covers its region at least this well, or the exact one is kept (assumed).
MIN_SIMPLIFIED_IOU = 0.9


def mask_to_polygons(mask_hw: np.ndarray) -> list[list[np.ndarray]]:
    """The regions of an (H, W) mask: one list per connected region, its outline first, then its holes.

    Each ring is (N, 2) int32 x, y, pixel centres. Filling the outlines and clearing the holes (cv2.fillPoly,
    then the holes' insides) gives the mask back.
    """
    mask = np.ascontiguousarray(mask_hw, dtype=np.uint8)
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if hierarchy is None:
        return []
    rings = [contour[:, 0, :] for contour in contours]
    regions: list[list[np.ndarray]] = []
    for index, (_, _, first_hole, parent) in enumerate(hierarchy[0]):
        if parent != -1:
            continue
        region = [rings[index]]
        hole = first_hole
        while hole != -1:
            region.append(rings[hole])
            hole = hierarchy[0][hole][0]
        regions.append(region)
    return regions


def mask_to_outlines(mask_hw: np.ndarray) -> list[list[np.ndarray]]:
    """The regions of an (H, W) mask like `mask_to_polygons`, along the edges of the pixels: exact.

    Each ring is (N, 2) int32 x, y with 0 <= x <= W and 0 <= y <= H, at least four corners, not closed by its
    first one again. `polygons_to_rle` of all the outlines, less that of all the holes, is the mask.
    """
    mask = np.asarray(mask_hw).astype(bool, copy=False)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return []
    top, left = rows[0], columns[0]
    window = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    # With every pixel doubled, a ring of pixel centres meets the left half of a pixel or its right half, and
    # so tells which of its two edges it follows.
    doubled = np.repeat(np.repeat(window, 2, axis=0), 2, axis=1)
    return [
        [_corners((ring + 1) // 2) + np.array([left, top], dtype=np.int32) for ring in region]
        for region in mask_to_polygons(doubled)
    ]


def simplify_ring(ring_xy: np.ndarray, tolerance: float) -> np.ndarray:
    """An outline (N, 2) int32 with fewer corners, none of the old ones farther than `tolerance` pixels away.

    Douglas-Peucker. Where that would overlap the exact region by an IoU under `MIN_SIMPLIFIED_IOU`, as for
    thin and small ones, the ring comes back as it is.
    """
    if tolerance <= 0:
        return ring_xy
    simple = cv2.approxPolyDP(ring_xy.reshape(-1, 1, 2), tolerance, closed=True)[:, 0, :]
    if len(simple) < 3:
        return ring_xy
    corner, size_wh = ring_xy.min(axis=0), np.ptp(ring_xy, axis=0)
    codes = [polygons_to_rle([ring - corner], (size_wh[1], size_wh[0])) for ring in (simple, ring_xy)]
    return simple if rle_iou(*codes) >= MIN_SIMPLIFIED_IOU else ring_xy


def join_rings(rings_xy: Sequence[np.ndarray]) -> np.ndarray:
    """Several rings (outlines and holes alike) as a single one, (N, 2), for files that hold one per object.

    Each further ring is reached and left over one bridge, there and back on the same line, which encloses
    nothing: by the even-odd rule that all fillers of one polygon follow, the inside stays what it was.
    """
    joined = rings_xy[0]
    for ring in rings_xy[1:]:
        start = _nearest(joined, ring[0])
        landing = _nearest(ring, joined[start])
        tour = np.roll(ring, -landing, axis=0)
        joined = np.concatenate([joined[: start + 1], tour, tour[:1], joined[start:]])
    return joined


def polygons_to_rle(rings_xy: Sequence[np.ndarray], size_hw: tuple[int, int]) -> Rle:
    """The code of the pixels whose centres lie in any of the rings (N, 2), x and y along pixel edges.

    COCO's own rasteriser: within a ring the even-odd rule, several rings are united. A polygon too thin to
    hold any pixel's centre becomes the pixels that its line passes through. Raises DataError for a ring of
    fewer than three corners, numbers that are not finite, or farther outside than the image is large.
    """
    height, width = (int(side) for side in size_hw)
    flat = []
    for index, ring in enumerate(rings_xy):
        ring = np.asarray(ring, dtype=np.float64)
        if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
            raise DataError(f"polygon {index} has shape {ring.shape}; allowed: (N, 2), three corners or more")
        limit = np.array([width, height])
        if not np.all((ring >= -limit) & (ring <= 2 * limit)):  # also true of NaN
            raise DataError(
                f"polygon {index} leaves the image: x {ring[:, 0].min():g} to {ring[:, 0].max():g}, y "
                f"{ring[:, 1].min():g} to {ring[:, 1].max():g}; allowed: near 0 to {width}, 0 to {height}"
            )
        flat.append(ring.ravel().tolist())
    if not flat:
        return encode_rle(np.zeros((height, width), dtype=bool))
    code = coco_mask.merge(coco_mask.frPyObjects(flat, height, width))
    rle = {"size": [height, width], "counts": code["counts"].decode("ascii")}
    return rle if rle_area(rle) else _line_rle(rings_xy, (height, width))


def outlines_to_mask(regions: Sequence[Sequence[np.ndarray]], size_hw: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of regions as `mask_to_outlines` gives them."""
    mask = np.zeros(size_hw, dtype=bool)
    for region in regions:
        mask |= decode_rle(polygons_to_rle([join_rings(region)], size_hw))
    return mask


def rle_iou(a: Rle, b: Rle) -> float:
    """Intersection over union of two codes of one size that this package has made itself (not checked)."""
    return float(coco_mask.iou([a], [b], [0])[0, 0])


def _corners(ring: np.ndarray) -> np.ndarray:
    """The ring without repeated points and without those in the middle of a straight side."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _nearest(ring: np.ndarray, point: np.ndarray) -> int:
    return int(np.square(ring.astype(np.float64) - point).sum(axis=1).argmin())


def _line_rle(rings_xy: Sequence[np.ndarray], size_hw: tuple[int, int]) -> Rle:
    canvas = np.zeros(size_hw, dtype=np.uint8)
    for ring in rings_xy:
        edge_xy = np.array([size_hw[1], size_hw[0]])
        corners = np.asarray(ring, dtype=np.float64)
        pixels = np.floor(np.where(corners == edge_xy, edge_xy - 1, corners)).astype(np.int32)
        cv2.polylines(canvas, [pixels.reshape(-1, 1, 2)], isClosed=True, color=1)
    return encode_rle(canvas)
