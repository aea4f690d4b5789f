"""A mask as runs of its pixels, column by column: what run-length codes are made of, and enough to work with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

Rle = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Runs:
    """Where the runs of a mask of `size_hw` start and end (past the last): rising pixel numbers (R,), not overlapping.

    Pixels are numbered down the columns. Runs end with their column.
    """

    starts: np.ndarray
    ends: np.ndarray
    size_hw: tuple[int, int]

    @staticmethod
    def of_columns(columns_wh: np.ndarray, corner_xy: tuple[int, int], size_hw: tuple[int, int]) -> Runs:
        """Of a part (w, h) bool of a mask, its columns one after the other, that lies at `corner_xy`."""
        width, height = columns_wh.shape
        edged = np.zeros((width, height + 2), dtype=bool)
        edged[:, 1:-1] = columns_wh
        column, row = np.divmod(np.flatnonzero(edged[:, 1:] != edged[:, :-1]), height + 1)
        pixels = (corner_xy[0] + column) * size_hw[0] + corner_xy[1] + row
        return Runs(pixels[::2], pixels[1::2], size_hw)

    @cached_property
    def area(self) -> int:
        """In pixels."""
        return int((self.ends - self.starts).sum())

    @cached_property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """The tight box x0, y0, x1, y1; zeros for no pixels."""
        if not len(self.starts):
            return 0, 0, 0, 0
        height = self.size_hw[0]
        last = self.ends - 1
        left, right = int(self.starts[0] // height), int(last[-1] // height)
        return left, int((self.starts % height).min()), right + 1, int((last % height).max()) + 1

    @cached_property
    def rle(self) -> Rle:
        """The compressed code of the mask."""
        starts, ends, total = self.starts, self.ends, self.size_hw[0] * self.size_hw[1]
        if len(starts):
            goes_on = starts[1:] == ends[:-1]  # over the foot of a column
            starts, ends = starts[np.append(True, ~goes_on)], ends[np.append(~goes_on, True)]
        turns = np.column_stack([starts, ends]).ravel()
        counts = np.diff(turns, prepend=0, append=total)
        if len(turns) and turns[-1] == total:
            counts = counts[:-1]
        code = coco_mask.frPyObjects({"size": list(self.size_hw), "counts": counts.tolist()}, *self.size_hw)
        return {"size": [int(side) for side in self.size_hw], "counts": code["counts"].decode("ascii")}

    def cut_to(self, other: Runs) -> Runs:
        """What this mask and another of its size have in common."""
        first = np.searchsorted(other.ends, self.starts, side="right")
        count = np.searchsorted(other.starts, self.ends, side="left") - first
        own = np.repeat(np.arange(len(first)), count)
        others = np.arange(len(own)) + np.repeat(first - (np.cumsum(count) - count), count)
        starts, ends = (
            np.maximum(self.starts[own], other.starts[others]),
            np.minimum(self.ends[own], other.ends[others]),
        )
        return Runs(starts, ends, self.size_hw)

    def placed(self, corner_xy: tuple[int, int], size_hw: tuple[int, int]) -> Runs:
        """The mask of a crop whose top left pixel is `corner_xy`, in an image of `size_hw`."""
        if self.size_hw == size_hw:
            return self
        x, y = np.divmod(self.starts, self.size_hw[0])
        starts = (x + corner_xy[0]) * size_hw[0] + y + corner_xy[1]
        return Runs(starts, starts + (self.ends - self.starts), size_hw)
