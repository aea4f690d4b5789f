"""The structure of a scene from overlapping masks: which is part of which, and a map without overlaps.

Masks come as run-length codes of one size and are decoded one at a time: a thousand masks of a large photo
never lie in memory together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from anymask.errors import DataError
from anymask.geometry.rle import checked_rle, decode_rle, rle_area, rle_size_hw

MAX_LABELS = 2**16 - 1


def parent_ids(rles: Sequence[Mapping[str, Any]], containment: float = 0.9) -> list[int | None]:
    """For each mask the index of the mask it is a part of, or None where it is a whole.

    The parent is the smallest mask that is larger and contains at least `containment` of the mask's pixels
    (of equally large ones that which contains more, then the first); the default leaves room for ragged
    borders (assumed). Empty masks are nobody's part and have none. Parents are always larger, so there are no
    circles.

    Raises DataError when a code is broken, sizes differ, or `containment` is not above 0 and at most 1.
    """
    if not 0 < containment <= 1:
        raise DataError(f"containment is {containment}; allowed: above 0, up to 1")
    if not rles:
        return []
    # The compiled overlap trusts its input, and misjudges boxes of codes with empty runs.
    size_hw = rle_size_hw(rles[0])
    codes = []
    for rle in rles:
        _require_size(rle, size_hw)
        codes.append(checked_rle(rle))
    areas = np.array([rle_area(code) for code in codes])
    inside = coco_mask.iou(codes, codes, [1] * len(codes))  # "crowd": shared pixels by the first one's area
    parents: list[int | None] = []
    for index, area in enumerate(areas):
        candidates = np.flatnonzero((areas > area) & (inside[index] >= containment))
        if area == 0 or candidates.size == 0:
            parents.append(None)
            continue
        order = np.lexsort((candidates, -inside[index][candidates], areas[candidates]))
        parents.append(int(candidates[order[0]]))
    return parents


def depths(parents: Sequence[int | None]) -> list[int]:
    """How deep each mask lies in the hierarchy of `parent_ids`: 0 a whole, 1 a part, 2 a subpart, and on."""
    depth_of: dict[int, int] = {}
    for start in range(len(parents)):
        chain = []
        index: int | None = start
        while index is not None and index not in depth_of:
            chain.append(index)
            index = parents[index]
        depth = -1 if index is None else depth_of[index]
        for child in reversed(chain):
            depth += 1
            depth_of[child] = depth
    return [depth_of[index] for index in range(len(parents))]


def label_map(
    rles: Sequence[Mapping[str, Any]],
    scores: Sequence[float] | None = None,
    size_hw: tuple[int, int] | None = None,
    winner: Literal["smallest", "score"] = "smallest",
) -> np.ndarray:
    """Each pixel's one mask (H, W) uint16: the mask's index + 1, and 0 where there is none.

    Of the masks that cover a pixel the smallest wins, by default: a part then stays visible on its whole,
    while by score a confident whole would wipe its parts out. Equally small ones are settled by the higher
    score, then by the earlier place. `winner="score"` asks the score first and the size second. A mask that
    others cover wholly gets no pixel. `size_hw` is needed for no masks at all.

    Raises DataError when a code is broken, sizes differ, there are more than 65,535 masks, or `scores` does
    not fit.
    """
    count = len(rles)
    if count > MAX_LABELS:
        raise DataError(f"rles has {count} masks; allowed: {MAX_LABELS} in a map of 16 bits")
    if winner not in ("smallest", "score"):
        raise DataError(f"winner is {winner!r}; allowed: 'smallest' or 'score'")
    if scores is None and winner == "score":
        raise DataError("scores is None; allowed with winner='score': one score for each mask")
    ranks = np.zeros(count) if scores is None else np.asarray(scores, dtype=np.float64)
    if ranks.shape != (count,):
        raise DataError(f"scores has shape {ranks.shape}; allowed: one score for each of the {count} masks")
    if size_hw is None:
        if not count:
            raise DataError("size_hw is None; allowed without any masks: the image's (height, width)")
        size_hw = rle_size_hw(rles[0])
    areas = np.array([rle_area(rle) for rle in rles], dtype=np.float64)
    keys = (-areas, ranks) if winner == "score" else (ranks, -areas)
    worst_first = np.lexsort((-np.arange(count), *keys))
    labels = np.zeros(size_hw, dtype=np.uint16)
    for index, mask in zip(worst_first, _masks([rles[i] for i in worst_first], size_hw), strict=True):
        labels[mask] = index + 1
    return labels


def _masks(rles: Sequence[Mapping[str, Any]], size_hw: tuple[int, int]) -> Iterator[np.ndarray]:
    """One mask after the other, all of one size."""
    for rle in rles:
        _require_size(rle, size_hw)
        yield decode_rle(rle)


def _require_size(rle: Mapping[str, Any], size_hw: tuple[int, int]) -> None:
    if rle_size_hw(rle) != tuple(size_hw):
        raise DataError(f"rle size is {list(rle_size_hw(rle))}; allowed here: {list(size_hw)}")
