"""Average precision and average recall of detections and proposals, as COCO and LVIS define them.

One image's detections take true objects greedily, the most confident first, each the object that it overlaps
most, if by at least the threshold (ten of them, 0.50 to 0.95). An object that is not asked about (a crowd, one
of another size) is ignored, and so is a detection that takes one or that is itself of another size. Equal to
pycocotools to rounding (tested), which has no rules of LVIS.

T thresholds, D detections by falling confidence, G true objects, R = 101 recalls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
# Areas in pixels from which and up to which an object counts (COCO's detection challenge).
SIZES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}


@dataclass(frozen=True)
class Matches:
    """What one image's detections of one class came to, against the objects that are asked about.

    scores: (D,) falling. is_match, is_ignored: (T, D) bool. positives: how many objects are asked about.
    """

    scores: np.ndarray
    is_match: np.ndarray
    is_ignored: np.ndarray
    positives: int


def take_objects(
    ious_dg: np.ndarray, is_ignored_g: np.ndarray, is_crowd_g: np.ndarray, thresholds: np.ndarray = IOU_THRESHOLDS
) -> np.ndarray:
    """Which object each detection takes at each threshold, (T, D) int64, -1 for none; best detection first.

    A detection prefers objects that are asked about to ignored ones, then the greater overlap, then the later
    in the file. Crowds can be taken many times, for them the overlap is the share of the detection inside.
    """
    detections, objects = ious_dg.shape
    taken_tg = np.zeros((len(thresholds), objects), dtype=bool)
    takes_td = np.full((len(thresholds), detections), -1)
    if not objects:
        return takes_td
    needed_t = np.minimum(thresholds, 1 - 1e-10)
    # Later ones win among equals: from back to front, the first maximum is the last.
    backwards = np.arange(objects)[::-1]
    for detection in np.flatnonzero(ious_dg.max(axis=1) >= needed_t.min()):
        ious_g = ious_dg[detection]
        is_open_tg = (ious_g >= needed_t[:, None]) & (~taken_tg | is_crowd_g)
        is_wanted_tg = is_open_tg & ~is_ignored_g
        is_open_tg = np.where(is_wanted_tg.any(axis=1)[:, None], is_wanted_tg, is_open_tg)
        rows = np.flatnonzero(is_open_tg.any(axis=1))
        best = backwards[np.where(is_open_tg[rows], ious_g, -1)[:, backwards].argmax(axis=1)]
        takes_td[rows, detection] = best
        taken_tg[rows, best] = True
    return takes_td


def match_image(
    scores: np.ndarray,
    detection_areas: np.ndarray,
    ious_dg: np.ndarray,
    object_areas: np.ndarray,
    is_crowd_g: np.ndarray,
    area_range: tuple[float, float] = SIZES["all"],
    is_exhaustive: bool = True,
    is_asked_g: np.ndarray | None = None,
) -> Matches:
    """The matches of one image and class; detections (D,) must come most confident first.

    Areas in pixels. `is_exhaustive` False (LVIS) forgives detections that take nothing, since the object may
    just not be marked. `is_asked_g` (G,) narrows down the objects that are asked about.
    """
    low, high = area_range
    is_ignored_g = is_crowd_g | (object_areas < low) | (object_areas > high)
    if is_asked_g is not None:
        is_ignored_g = is_ignored_g | ~is_asked_g
    takes_td = take_objects(ious_dg, is_ignored_g, is_crowd_g)
    is_match_td = takes_td >= 0
    is_ignored_td = np.zeros_like(is_match_td)
    if len(is_ignored_g):
        is_ignored_td = is_match_td & is_ignored_g[takes_td]
    is_forgiven_d = (detection_areas < low) | (detection_areas > high) | (not is_exhaustive)
    return Matches(scores, is_match_td, is_ignored_td | (~is_match_td & is_forgiven_d), int((~is_ignored_g).sum()))


def average_precision(matches: Sequence[Matches]) -> np.ndarray:
    """The average precision (T,) of one class over images: precision at 101 recalls; NaN without any object."""
    positives = sum(of_image.positives for of_image in matches)
    if not positives:
        return np.full(len(IOU_THRESHOLDS), nan)
    # Equals stay in the order of the images, as in COCO's evaluation.
    order = np.argsort(-np.concatenate([of_image.scores for of_image in matches]), kind="stable")
    is_match = np.concatenate([of_image.is_match for of_image in matches], axis=1)[:, order]
    is_ignored = np.concatenate([of_image.is_ignored for of_image in matches], axis=1)[:, order]
    right = np.cumsum(is_match & ~is_ignored, axis=1, dtype=np.float64)
    wrong = np.cumsum(~is_match & ~is_ignored, axis=1, dtype=np.float64)
    recall = right / positives
    precision = right / (right + wrong + np.spacing(1))
    # The best precision at this recall or any higher one.
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    at_recalls = np.zeros((len(IOU_THRESHOLDS), len(RECALLS)))
    for threshold in range(len(IOU_THRESHOLDS)):
        places = np.searchsorted(recall[threshold], RECALLS, side="left")
        is_reached = places < len(order)
        at_recalls[threshold, is_reached] = precision[threshold, places[is_reached]]
    return at_recalls.mean(axis=1)


def average_recall(matches: Sequence[Matches], limit: int) -> float:
    """The share of objects that an image's best `limit` detections find, mean over thresholds; NaN without any."""
    positives = sum(of_image.positives for of_image in matches)
    if not positives:
        return nan
    found = sum((of_image.is_match & ~of_image.is_ignored)[:, :limit].sum() for of_image in matches)
    return float(found / (positives * len(IOU_THRESHOLDS)))
