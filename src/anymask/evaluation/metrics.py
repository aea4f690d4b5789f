"""The numbers of the promptable experiments: IoU of coded masks, its mean over a set and over sets.

All are fractions in [0, 1]. The paper's figure is the mean over a set's objects, every object counting the
same, and then the mean over sets, every set counting the same (paper, section D.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from anymask.errors import DataError
from anymask.geometry.rle import rle_area, rle_size_hw


def rle_ious(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Intersection over union (K,), float64, of a true mask and K predicted ones, all as COCO codes.

    0 where both are empty. Nothing is decoded to pixels. Raises DataError when a code is broken or the sizes
    differ.
    """
    if not predictions:
        return np.zeros(0)
    codes = [_checked(code) for code in (truth, *predictions)]
    for index, code in enumerate(codes[1:]):
        if code["size"] != codes[0]["size"]:
            raise DataError(f"predictions[{index}] has size {code['size']}; allowed: the truth's, {codes[0]['size']}")
    return np.asarray(coco_mask.iou(codes[1:], codes[:1], [0]), dtype=np.float64)[:, 0]


def mean_iou(ious: Iterable[float]) -> float:
    """The mean of a set's objects. Raises DataError when there are none: no objects have no score."""
    values = np.fromiter(ious, dtype=np.float64)
    if values.size == 0:
        raise DataError("ious is empty; allowed: at least one object")
    return float(values.mean())


def mean_over_sets(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """For {set: {measure: score}} the mean of every measure over the sets, each set weighing the same.

    Raises DataError when there is no set or the sets were not measured alike.
    """
    if not scores:
        raise DataError("scores is empty; allowed: at least one set")
    measures = list(next(iter(scores.values())))
    for name, of_set in scores.items():
        if set(of_set) != set(measures):
            raise DataError(f"scores of {name} are {sorted(of_set)}; allowed: {sorted(measures)}, as the first's")
    return {measure: float(np.mean([of_set[measure] for of_set in scores.values()])) for measure in measures}


def _checked(code: Mapping[str, Any]) -> dict[str, Any]:
    """A code that pycocotools may read: it trusts the runs to add up, so they are added up before it does."""
    rle_area(code)
    size = list(rle_size_hw(code))
    counts = code["counts"]
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode("ascii")}
    if isinstance(counts, bytes):
        return {"size": size, "counts": counts}
    return dict(coco_mask.frPyObjects({"size": size, "counts": np.asarray(counts).tolist()}, *size))
