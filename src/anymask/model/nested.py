"""Finer maps beside a coarser grid, in orders that make convolutions of 2x2 at stride 2 plain matrix products.

Legend: B maps, K channels, h w coarse cells, P = h * w. Two orders are used:

- "nested" is (B, P, 4 ** levels * K): for each coarse cell, row by row, its four finer cells (top left, top right,
  bottom left, bottom right), for each of them again its four, and so on; the channels last;
- "by line" is (B, L, ..., K): the first of the L finer lines of every coarse row, then the second of every one, and so
  on. Within a line, finer cells stand as they lie, so that a map drawn line by line needs no more putting in order.
"""

from __future__ import annotations

from torch import Tensor


def nest(maps: Tensor, levels: int) -> Tensor:
    """(B, K, h * 2 ** levels, w * 2 ** levels) to nested (B, h * w, 4 ** levels * K)."""
    finer = (-1, *[2] * levels)
    split = maps.unflatten(3, finer).unflatten(2, finer)  # B, K, h, levels of y, w, levels of x
    pairs = [axis for level in range(levels) for axis in (3 + level, 4 + levels + level)]
    return split.permute(0, 2, 3 + levels, *pairs, 1).flatten(3).flatten(1, 2)


def nested_weight(weight: Tensor) -> Tensor:
    """A convolution's weight (C, K, 2, 2) as a matrix (C, 4 * K), from a cell's four finer ones to itself."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def by_line(maps: Tensor, lines: int) -> Tensor:
    """(B, K, h * lines, W) by line, two neighbours side by side: (B, lines, h * W / 2, 2 * K)."""
    split = maps.unflatten(3, (-1, 2)).unflatten(2, (-1, lines))  # B, K, h, lines, W / 2, 2
    return split.permute(0, 3, 2, 4, 5, 1).flatten(4).flatten(2, 3)


def line_weight(weight: Tensor, line: int) -> Tensor:
    """A transposed convolution's weight (C, K, 2, 2) as a matrix (C, 2 * K): a cell to its finer two on one line."""
    return weight[:, :, line].transpose(1, 2).flatten(1)
