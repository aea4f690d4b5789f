"""Where a mask's logits are above a level, at the original size, without drawing them there.

A pixel of the original is a mean of the four logits around it, the corners of its cell. Most cells lie on one side of
the level with all their pixels; only the few that it passes through are looked at pixel by pixel. The numbers are those
of `resize.logits_to_original`, to rounding. Legend: h w logits, R C cells down and across, K cells looked at, of up to
n pixels down and m across.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anymask.geometry.resize import Frame, axis_of, neighbours
from anymask.geometry.runs import Runs

# Pixels that are drawn at once: they stay in the processor's cache, and a mask of any size out of memory.
PIXELS_AT_ONCE = 1 << 17


def count_above(logits_hw: np.ndarray, frame: Frame, levels: Sequence[float]) -> list[int]:
    """How many pixels of the original are above each of the levels, of logits (h, w) over the padded frame."""
    grid = _Grid.of(logits_hw, frame)
    is_mixed = (grid.lowest <= max(levels)) & (grid.highest > min(levels))
    pixels = np.outer(grid.down.count, grid.across.count)
    counts = [int(pixels[~is_mixed & (grid.lowest > level)].sum()) for level in levels]
    for _, _, values in grid.drawn(is_mixed):
        counts = [count + int(np.count_nonzero(values > level)) for count, level in zip(counts, levels, strict=True)]
    return counts


def runs_above(logits_hw: np.ndarray, frame: Frame, level: float = 0.0) -> Runs:
    """The original's pixels above a level."""
    grid = _Grid.of(logits_hw, frame)
    height, width = frame.original_hw
    is_above = grid.lowest > level
    is_mixed = ~is_above & (grid.highest > level)
    # Cells that lie below each other share logits, unless the original has no pixel in a cell between them.
    is_turn = (is_above[1:] != is_above[:-1]) & ~is_mixed[1:] & ~is_mixed[:-1]
    is_mixed[1:] |= is_turn
    is_mixed[:-1] |= is_turn

    columns = np.arange(width)
    starts = [columns[np.repeat(is_above[0] & ~is_mixed[0], grid.across.count)] * height]
    ends = [columns[np.repeat(is_above[-1] & ~is_mixed[-1], grid.across.count)] * height + height]
    for rows, cols, values in grid.drawn(is_mixed):
        states = _states(grid, rows, cols, values > level, is_above)
        turns = np.flatnonzero(states[:, 1:] != states[:, :-1])
        line = turns // len(rows)
        cell = turns - line * len(rows)
        column = line // (states.shape[1] - 1)
        row = line - column * (states.shape[1] - 1)
        pixels = (grid.across.first[cols[cell]] + column) * height + grid.down.first[rows[cell]] + row
        is_start = states[column, row + 1, cell]
        starts.append(pixels[is_start])
        ends.append(pixels[~is_start])
    return Runs(np.sort(np.concatenate(starts)), np.sort(np.concatenate(ends)), frame.original_hw)


def _states(grid: _Grid, rows: np.ndarray, cols: np.ndarray, is_in: np.ndarray, is_above: np.ndarray) -> np.ndarray:
    """Which pixels of K cells (m, n, K) are in the mask, with what lies before and after them: (m, n + 2, K).

    `is_in` is drawn; `is_above` (R, C) says which cells are in with all their pixels. Above and below the image is
    nothing. What comes after a cell with fewer than n pixels stands from its end on.
    """
    edge = np.zeros((1, is_above.shape[1]), dtype=bool)
    over, under = np.concatenate([edge, is_above[:-1]]), np.concatenate([is_above[1:], edge])
    is_column = ~grid.across.is_past.take(cols, axis=1)
    before, after = over[rows, cols] & is_column, under[rows, cols] & is_column
    last = is_in[:, grid.down.count[rows] - 1, np.arange(len(rows))]
    is_linked = (cols[1:] == cols[:-1]) & (rows[1:] == rows[:-1] + 1)
    before[:, 1:][:, is_linked] = last[:, :-1][:, is_linked]
    after[:, :-1][:, is_linked] = last[:, :-1][:, is_linked]  # the turn is found by the cell below
    is_in |= grid.down.is_past.take(rows, axis=1) & after[:, None]
    return np.concatenate([before[:, None], is_in, after[:, None]], axis=1)


@dataclass(frozen=True)
class _Axis:
    """The cells along one axis that have pixels of the original: L of them, of n pixels at most.

    lower, upper: their two logits. first, count: their pixels. share (n, L): of `upper` in each pixel, not a number
    past the last one, so that what is drawn there is above nothing; is_past (n, L) says where.
    """

    lower: np.ndarray
    upper: np.ndarray
    first: np.ndarray
    count: np.ndarray
    share: np.ndarray
    is_past: np.ndarray


@lru_cache(maxsize=16)
def _cells_along(output_size: int, input_size: int, input_extent: float) -> _Axis:
    lower, shares = neighbours(output_size, input_size, input_extent)
    # Half a cell before the first logit and after the last one is all like it: cells of their own, or the first and
    # the last would be half as large again as the others.
    cells = np.where((lower == 0) & (shares == 0), -1, lower)
    cells = np.where((lower == input_size - 2) & (shares == 1), input_size, cells)
    _, first, count = np.unique(cells, return_index=True, return_counts=True)
    place = np.arange(count.max())[:, None]
    is_past = place >= count
    share = np.where(is_past, np.float32(np.nan), shares[np.minimum(first + place, output_size - 1)])
    return _Axis(lower[first], np.minimum(lower[first] + 1, input_size - 1), first, count, share, is_past)


@dataclass(frozen=True)
class _Grid:
    """A mask's logits as cells: the four logits of each (R, C), from the top left on, the least and the greatest."""

    down: _Axis
    across: _Axis
    corners: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    lowest: np.ndarray
    highest: np.ndarray

    @staticmethod
    def of(logits_hw: np.ndarray, frame: Frame) -> _Grid:
        logits_hw = np.asarray(logits_hw, dtype=np.float32)
        down, across = (_cells_along(*axis_of(frame, logits_hw.shape[axis], axis)) for axis in (0, 1))
        top, bottom = logits_hw.take(down.lower, axis=0), logits_hw.take(down.upper, axis=0)
        top_left, top_right = top.take(across.lower, axis=1), top.take(across.upper, axis=1)
        bottom_left, bottom_right = bottom.take(across.lower, axis=1), bottom.take(across.upper, axis=1)
        lowest = np.minimum(np.minimum(top_left, top_right), np.minimum(bottom_left, bottom_right))
        highest = np.maximum(np.maximum(top_left, top_right), np.maximum(bottom_left, bottom_right))
        return _Grid(down, across, (top_left, top_right, bottom_left, bottom_right), lowest, highest)

    def drawn(self, is_wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The logits of the wanted cells' pixels, whole columns of cells at a time, from the left.

        Yields rows and columns of K cells, down each column, and values (m, n, K): pixel columns, rows in them, cells.
        """
        cols, rows = np.nonzero(is_wanted.T)
        at_once = max(1, PIXELS_AT_ONCE // (len(self.down.share) * len(self.across.share)))
        start = 0
        while start < len(cols):
            # As many whole columns of cells as fit, one at least.
            end = len(cols)
            if start + at_once < end:
                end = np.searchsorted(cols, max(cols[start + at_once], cols[start] + 1))
            yield rows[start:end], cols[start:end], self._draw(rows[start:end], cols[start:end])
            start = int(end)

    def _draw(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        # take() puts cells side by side in memory; indexing would put them one after the other.
        down, across = self.down.share.take(rows, axis=1), self.across.share.take(cols, axis=1)
        top_left, top_right, bottom_left, bottom_right = (corner[rows, cols] for corner in self.corners)
        left, right = _between(top_left, bottom_left, down), _between(top_right, bottom_right, down)
        return _between(left, right, across[:, None])


def _between(low: np.ndarray, high: np.ndarray, share: np.ndarray) -> np.ndarray:
    mixed = (high - low) * share
    mixed += low
    return mixed
