"""IoU of codes against IoU of pixels, and the two means on a case worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from anymask.errors import DataError
from anymask.evaluation.metrics import mean_iou, mean_over_sets, rle_ious
from anymask.geometry.masks import mask_iou
from anymask.geometry.rle import encode_rle, encode_rles


def block(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((6, 8), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_ious_worked_by_hand() -> None:
    truth = block(1, 1, 3, 5)  # 8 pixels
    predictions = [
        truth,
        block(1, 1, 3, 3),  # half of it: 4 / 8
        block(1, 3, 3, 7),  # 4 shared, 8 + 8 - 4 together: 4 / 12
        block(4, 0, 6, 8),  # elsewhere
        block(0, 0, 0, 0),  # nothing
    ]
    np.testing.assert_allclose(rle_ious(encode_rle(truth), encode_rles(np.stack(predictions))), [1, 1 / 2, 1 / 3, 0, 0])


def test_means_worked_by_hand() -> None:
    big, small = mean_iou([1.0, 0.5, 0.0, 0.5]), mean_iou([0.9])
    assert big == 0.5
    assert small == pytest.approx(0.9)
    # Each set weighs the same, however many objects it has: not (2.0 + 0.9) / 5.
    assert mean_over_sets({"big": {"1": big, "box": 1.0}, "small": {"1": small, "box": 0.0}}) == {
        "1": pytest.approx(0.7),
        "box": 0.5,
    }


@given(arrays.arrays(bool, st.tuples(st.just(4), st.integers(1, 9), st.integers(1, 9))))
def test_codes_give_the_iou_of_pixels(masks_khw: np.ndarray) -> None:
    truth, *predicted = encode_rles(masks_khw)
    expected = [mask_iou(masks_khw[0], mask) for mask in masks_khw[1:]]
    np.testing.assert_allclose(rle_ious(truth, predicted), expected)


def test_plain_counts_are_read_and_runs_without_length_do_no_harm() -> None:
    truth = {"size": [2, 3], "counts": [1, 2, 3]}
    same_with_empty_runs = {"size": [2, 3], "counts": [0, 0, 1, 1, 0, 1, 2, 0, 1]}
    np.testing.assert_array_equal(rle_ious(truth, [same_with_empty_runs, truth]), [1, 1])
    assert rle_ious(truth, []).shape == (0,)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        ({"size": [2, 2], "counts": [1, 2, 1]}, "allowed: the truth's"),
        ({"size": [2, 3], "counts": [1, 2]}, "add up to 3"),
        ({"size": [2, 3]}, "counts"),
    ],
)
def test_a_code_that_does_not_fit_is_refused(prediction: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rle_ious({"size": [2, 3], "counts": [1, 2, 3]}, [prediction])


def test_means_of_nothing_or_of_different_things_are_refused() -> None:
    with pytest.raises(DataError, match="at least one object"):
        mean_iou([])
    with pytest.raises(DataError, match="at least one set"):
        mean_over_sets({})
    with pytest.raises(DataError, match="scores of b"):
        mean_over_sets({"a": {"1": 0.5, "box": 0.5}, "b": {"1": 0.5}})
