"""Confidence intervals of means, by drawing the sample again and again (bootstrap, percentiles)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from anymask.errors import DataError

_DRAWS_AT_ONCE = 250


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its confidence interval, in the values' own unit; count: how many values."""

    mean: float
    low: float
    high: float
    count: int

    def percents(self) -> str:
        """The mean and the interval of a fraction in per cent, a dash for an interval of which nothing is known."""
        ends = f"{100 * self.low:.1f}, {100 * self.high:.1f}" if isfinite(self.low) and isfinite(self.high) else "-"
        return f"{100 * self.mean:.1f} [{ends}]"

    def overlaps(self, other: Interval) -> bool:
        """Whether the two intervals share a point."""
        return self.low <= other.high and other.low <= self.high


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of values (N,) and its interval at `level`.

    `clusters` (N,) says which values belong together, such as the objects of one image: clusters are drawn as
    wholes, for what is alike in them is no independent evidence. With a single cluster there is nothing to
    draw: the interval is everything, minus to plus infinity. Equal arguments give equal answers. Raises
    DataError for no values, or when the lengths differ.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample):
        raise DataError(f"values has shape {sample.shape}; allowed: (N,) with at least one value")
    keys = list(range(len(sample))) if clusters is None else list(clusters)
    if len(keys) != len(sample):
        raise DataError(f"clusters has {len(keys)} entries for {len(sample)} values; allowed: one each")
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    of_value = np.array([numbers[key] for key in keys])
    sums, counts = np.bincount(of_value, weights=sample), np.bincount(of_value).astype(np.float64)
    mean = float(sample.mean())
    if len(numbers) < 2:
        return Interval(mean, float("-inf"), float("inf"), len(sample))
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _DRAWS_AT_ONCE):
        draws = rng.integers(len(sums), size=(min(_DRAWS_AT_ONCE, resamples - start), len(sums)))
        means.append(sums[draws].sum(axis=1) / counts[draws].sum(axis=1))
    tail = 50 * (1 - level)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(mean, float(low), float(high), len(sample))
