"""Masks as polygons, holes included. Coordinates are the pixel centres along a region's edge, x then y."""

from __future__ import annotations

import cv2
import numpy as np


def mask_to_polygons(mask_hw: np.ndarray) -> list[list[np.ndarray]]:
    """The regions of an (H, W) mask: one list per connected region, its outline first, then its holes.

    Each ring is (N, 2) int32 x, y. Filling the outlines and clearing the holes (cv2.fillPoly, then the holes'
    insides) gives the mask back.
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
