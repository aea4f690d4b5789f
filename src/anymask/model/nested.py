"""Fine maps kept cell by cell of a coarser grid, which makes convolutions of 2x2 at stride 2 plain matrix products.

"Nested" is (B, P, 4 ** levels * C): for each of the P = h * w coarse cells, row by row, its four finer cells (top left,
top right, bottom left, bottom right), for each of them again its four, and so on; the C channels last.
"""

from __future__ import annotations

from torch import Tensor


def nest(maps: Tensor, levels: int) -> Tensor:
    """(B, C, h * 2 ** levels, w * 2 ** levels) to (B, h * w, 4 ** levels * C)."""
    finer = (-1, *[2] * levels)
    split = maps.unflatten(3, finer).unflatten(2, finer)  # B, C, h, levels of y, w, levels of x
    pairs = [axis for level in range(levels) for axis in (3 + level, 4 + levels + level)]
    return split.permute(0, 2, 3 + levels, *pairs, 1).flatten(3).flatten(1, 2)


def unnest(nested: Tensor, size_hw: tuple[int, int], levels: int) -> Tensor:
    """Maps of one channel, (B, M, h * w * 4 ** levels), to (B, M, h * 2 ** levels, w * 2 ** levels)."""
    split = nested.unflatten(2, (*size_hw, *[2] * (2 * levels)))
    rows, columns = range(4, 4 + 2 * levels, 2), range(5, 5 + 2 * levels, 2)
    return split.permute(0, 1, 2, *rows, 3, *columns).flatten(3 + levels).flatten(2, 2 + levels)


def nested_weight(weight: Tensor) -> Tensor:
    """A transposed convolution's weight (C, K, 2, 2) as a matrix (C, 4 * K): a cell to its four finer ones."""
    return weight.permute(0, 2, 3, 1).flatten(1)
