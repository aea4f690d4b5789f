"""Bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anymask.errors import DataError
from anymask.evaluation.intervals import Interval, bootstrap_mean


def test_close_to_the_normal_interval(rng: np.random.Generator) -> None:
    values = rng.normal(3.0, 2.0, 2000)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert interval.mean == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx((interval.mean - half, interval.mean + half), abs=0.05 * half)
    assert interval == bootstrap_mean(values)
    wide = bootstrap_mean(values, level=0.99)
    assert wide.low < interval.low < interval.high < wide.high


def test_copies_within_a_cluster_are_no_evidence(rng: np.random.Generator) -> None:
    values = rng.normal(0.0, 1.0, 100)
    alone = bootstrap_mean(values)
    copied = bootstrap_mean(np.repeat(values, 5), np.repeat(np.arange(100), 5).tolist())
    assert copied.count == 500
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), abs=1e-9)
    naive = bootstrap_mean(np.repeat(values, 5))
    assert naive.high - naive.low < 0.6 * (copied.high - copied.low)


def test_one_cluster_says_nothing_about_the_spread() -> None:
    assert bootstrap_mean([0.2, 0.4], ["a", "a"]) == Interval(pytest.approx(0.3), -math.inf, math.inf, 2)


def test_overlap() -> None:
    first, second, third = Interval(1, 0, 2, 9), Interval(3, 2, 4, 9), Interval(5, 4.5, 6, 9)
    assert first.overlaps(second)
    assert second.overlaps(first)
    assert not second.overlaps(third)


@pytest.mark.parametrize(("values", "clusters"), [([], None), ([1.0], ["a", "b"]), ([[1.0]], None)])
def test_refused(values: list[float], clusters: list[str] | None) -> None:
    with pytest.raises(DataError, match="allowed"):
        bootstrap_mean(values, clusters)
