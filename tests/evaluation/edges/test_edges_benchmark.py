"""The boundary benchmark on cases whose counts are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anymask.errors import DataError
from anymask.evaluation.edges.benchmark import (
    EdgeCounts,
    average_precision,
    count_boundary,
    count_image,
    f_measure,
    recall_at_half_precision,
    score_edges,
    thresholds,
)
from anymask.evaluation.edges.matching import TruthMatcher, match_radius


def line(column: int, height: int = 20, width: int = 30) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[:, column] = True
    return mask


def test_the_radius_is_a_share_of_the_diagonal() -> None:
    assert match_radius((321, 481)) == pytest.approx(0.0075 * 578.275, abs=1e-3)


@given(arrays(bool, (6, 8)), arrays(bool, (6, 8)), st.floats(1, 3.5))
def test_it_makes_as_many_pairs_as_there_can_be(truth: np.ndarray, predicted: np.ndarray, radius: float) -> None:
    """Against the assignment problem, which is solved another way."""
    from scipy.optimize import linear_sum_assignment

    truth_yx, predicted_yx = np.argwhere(truth), np.argwhere(predicted)
    distance = np.linalg.norm(truth_yx[:, None].astype(float) - predicted_yx[None], axis=2)
    near = distance <= radius
    rows, columns = linear_sum_assignment(-near.astype(float))
    matched = TruthMatcher(truth, radius).match(predicted)
    assert matched.sum() == near[rows, columns].sum()
    assert not (matched & ~predicted).any()


def test_a_pixel_is_matched_once_and_within_the_radius() -> None:
    truth, predicted = np.zeros((9, 9), dtype=bool), np.zeros((9, 9), dtype=bool)
    truth[4, 4] = True
    predicted[4, 1:8] = True
    matched = TruthMatcher(truth, 2.0).match(predicted)
    assert np.argwhere(matched).tolist() == [[4, 4]]  # the nearest
    predicted[:] = False
    predicted[2, 2] = True  # 2.83 away
    assert not TruthMatcher(truth, 2.8).match(predicted).any()
    assert TruthMatcher(truth, 2.83).match(predicted).any()
    with pytest.raises(DataError, match="truth's size"):
        TruthMatcher(truth, 2.0).match(predicted[:3])


def test_counts_worked_by_hand() -> None:
    """Two annotators: A drew column 5, B columns 5 and 20. The map has column 5 strongly, column 12 weakly."""
    edges = np.zeros((20, 30), dtype=np.float32)
    edges[:, 5], edges[:, 12] = 0.9, 0.3
    levels = np.array([0.2, 0.5, 0.95])
    counts = count_image(edges, [line(5), line(5) | line(20)], levels, max_distance=1 / 36)  # a radius of 1.0 pixel
    # Thinning wears the ends of lines down no further than one pixel wide lines are already.
    assert counts.matched_truth.tolist() == [40, 40, 0]
    assert counts.all_truth.tolist() == [60, 60, 60]
    assert counts.matched_predicted.tolist() == [20, 20, 0]
    assert counts.all_predicted.tolist() == [40, 20, 0]
    scores = score_edges([counts], levels)
    assert scores.ods == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert scores.ois == pytest.approx(0.8)
    assert (scores.precision, scores.recall, scores.threshold) == (1, pytest.approx(2 / 3), 0.5)
    assert scores.r50 == pytest.approx(2 / 3)


def test_a_perfect_map_scores_one_and_an_empty_one_nought() -> None:
    levels = thresholds()
    truth = line(7)
    perfect = score_edges([count_image(truth.astype(np.float32), [truth], levels)] * 2, levels)
    assert (perfect.ods, perfect.ois, perfect.ap, perfect.r50) == (1, 1, 1, 1)
    empty = score_edges([count_image(np.zeros(truth.shape, np.float32), [truth], levels)], levels)
    assert (empty.ods, empty.ois, empty.ap, empty.r50) == (0, 0, 0, 0)


def test_each_image_may_have_its_own_threshold_for_ois_alone() -> None:
    levels = np.array([0.25, 0.75])
    strong, weak = (EdgeCounts(*(np.array(row) for row in rows)) for rows in (
        ([10, 10], [10, 10], [10, 10], [40, 10]),  # perfect at the upper threshold
        ([10, 0], [10, 10], [10, 0], [10, 0]),  # perfect at the lower one
    ))  # fmt: skip
    scores = score_edges([strong, weak], levels)
    assert scores.ois == 1
    assert scores.ods == pytest.approx(0.7288, abs=1e-3)  # between the thresholds, at precision 0.76, recall 0.70


def test_area_and_recall_at_half_precision() -> None:
    precision, recall = np.array([0.4, 0.6, 1.0]), np.array([0.9, 0.5, 0.1])
    # Straight pieces from (0.1, 1.0) over (0.5, 0.6) to (0.9, 0.4); nothing below 0.1 and above 0.9.
    by_hand = sum(np.interp(r / 100, [0.1, 0.5, 0.9], [1.0, 0.6, 0.4]) for r in range(10, 91)) / 100
    assert average_precision(precision, recall) == pytest.approx(by_hand)
    assert recall_at_half_precision(precision, recall) == pytest.approx(0.7)
    assert recall_at_half_precision(np.array([0.6, 1.0]), np.array([0.5, 0.1])) == 0.5
    assert recall_at_half_precision(np.array([0.2, 0.3]), np.array([0.5, 0.1])) == 0
    assert f_measure(0.5, 1.0) == pytest.approx(2 / 3)


def test_no_images_and_no_annotators_are_refused() -> None:
    with pytest.raises(DataError, match="one image or more"):
        score_edges([], thresholds())
    with pytest.raises(DataError, match="one annotator"):
        count_image(np.zeros((4, 4), np.float32), [], thresholds())


@pytest.mark.shared
def test_people_agree_as_published(shared_data: Path) -> None:
    """Each annotator against the others: F 0.80 is published for BSDS500's test images.

    All 200 images give 0.803 ("measured"), the 40 that this test has time for 0.825.
    """
    from anymask.data.bsds import bsds_truths, read_bsds_truth

    rows = np.zeros((4, 1), dtype=np.int64)
    for path in bsds_truths(shared_data / "bsds500" / "groundTruth" / "test")[::5]:
        drawn = [annotation.boundary_hw for annotation in read_bsds_truth(path)]
        for index, boundary in enumerate(drawn):
            rows += count_boundary(boundary, drawn[:index] + drawn[index + 1 :]).rows()
    counts = EdgeCounts.from_rows(rows)
    assert f_measure(counts.precision, counts.recall)[0] == pytest.approx(0.80, abs=0.03)
