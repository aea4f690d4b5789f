"""Finer maps beside a coarser grid, in orders that make convolutions of 2x2 at stride 2 plain matrix products.

Legend: B maps, K channels, h w coarse cells. Two orders are used:

- "four beside each other" is (B, 4 * K, h * w): every channel as four coarse maps, of the upper left finer cells, the
  upper right, the lower left and the lower right ones;
- "by line" is (B, L, ..., K): the first of the L finer lines of every coarse row, then the second of every one, and so
  on. Within a line, finer cells stand as they lie, so that a map drawn line by line needs no more putting in order.
"""

from __future__ import annotations

from torch import Tensor


def four_beside(maps: Tensor) -> Tensor:
    """(B, K, 2 * h, 2 * w) to four beside each other, (B, 4 * K, h * w).

    A convolution's weight (C, K, 2, 2), flattened to (C, 4 * K), times this is the convolution. PyTorch's own
    `pixel_unshuffle` gives the same, three times as slowly ("measured").
    """
    split = maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B, K, h, 2, w, 2
    return split.permute(0, 1, 3, 5, 2, 4).flatten(4).flatten(1, 3)


def by_line(maps: Tensor, lines: int) -> Tensor:
    """(B, K, h * lines, W) by line, two neighbours side by side: (B, lines, h * W / 2, 2 * K)."""
    split = maps.unflatten(3, (-1, 2)).unflatten(2, (-1, lines))  # B, K, h, lines, W / 2, 2
    return split.permute(0, 3, 2, 4, 5, 1).flatten(4).flatten(2, 3)


def line_weight(weight: Tensor, line: int) -> Tensor:
    """A transposed convolution's weight (C, K, 2, 2) as a matrix (C, 2 * K): a cell to its finer two on one line."""
    return weight[:, :, line].transpose(1, 2).flatten(1)
