import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from anymask.errors import PromptError
from anymask.geometry.points import mask_centre_xy, next_click, random_point_xy

some_masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=10))


def slow_centre(mask_hw):
    """The centre by comparing every pixel with every other, nothing cropped."""
    padded = np.pad(mask_hw, 1)
    outside = np.argwhere(~padded)
    inside = np.argwhere(padded)  # in row order, so argmax takes the first of equals
    squared = ((inside[:, None] - outside[None]) ** 2).sum(axis=2).min(axis=1)
    row, column = inside[squared.argmax()] - 1
    return column, row


@given(some_masks.filter(np.any))
def test_centre_is_the_farthest_pixel_from_the_boundary(mask):
    assert mask_centre_xy(mask) == slow_centre(mask)


def test_centre_does_not_depend_on_where_the_mask_lies(rng):
    shape = rng.random((30, 40)) < 0.97
    small = np.pad(shape, 1)
    large = np.zeros((300, 500), dtype=bool)
    large[100:130, 200:240] = shape
    x, y = mask_centre_xy(small)
    assert mask_centre_xy(large) == (x - 1 + 200, y - 1 + 100)


def test_equal_pixels_give_the_first_in_row_order():
    mask = np.zeros((9, 30), dtype=bool)
    mask[1:8, 1:8] = mask[1:8, 11:18] = mask[1:8, 21:28] = True
    assert mask_centre_xy(mask) == (4, 4)
    assert mask_centre_xy(np.ones((2, 2))) == (0, 0)


def test_large_equal_regions_tie_exactly():
    mask = np.zeros((620, 1250), dtype=bool)
    mask[5:610, 5:610] = mask[5:610, 620:1225] = True
    assert mask_centre_xy(mask) == (307, 307)


def test_image_border_is_a_boundary():
    assert mask_centre_xy(np.ones((5, 9), dtype=bool)) == (2, 2)
    assert mask_centre_xy(np.ones((1, 1), dtype=bool)) == (0, 0)


@given(some_masks, st.integers(0, 2**32 - 1))
def test_next_click_lies_in_the_error_and_is_labelled_by_the_truth(truth, seed):
    predicted = np.random.default_rng(seed).random(truth.shape) < 0.5
    error = truth ^ predicted
    if not error.any():
        if truth.any():
            assert next_click(truth, predicted) == (mask_centre_xy(truth), 1)
        return
    (x, y), label = next_click(truth, predicted)
    assert (x, y) == slow_centre(error)
    assert label == int(truth[int(y), int(x)])
    assert predicted[int(y), int(x)] == (label == 0)


def test_next_click_takes_the_larger_mistake():
    truth = np.zeros((40, 60), dtype=bool)
    truth[5:35, 5:25] = True
    predicted = truth.copy()
    predicted[10:20, 10:20] = False  # missed
    predicted[8:11, 40:50] = True  # too much
    assert next_click(truth, predicted) == ((14, 14), 1)
    predicted[2:38, 30:58] = True
    (x, _), label = next_click(truth, predicted)
    assert label == 0
    assert x >= 30


def test_without_error_the_centre_is_clicked():
    truth = np.zeros((9, 9), dtype=bool)
    truth[2:7, 2:7] = True
    assert next_click(truth, truth) == ((4, 4), 1)


def test_random_points_reach_every_pixel_of_the_mask_and_no_other(rng):
    mask = np.zeros((4, 7), dtype=bool)
    mask[1, 2] = mask[3, 6] = mask[0, 0] = True
    seen = [random_point_xy(mask, rng) for _ in range(300)]
    assert set(seen) == {(2, 1), (6, 3), (0, 0)}
    assert all(60 < seen.count(point) < 140 for point in set(seen))
    assert all(isinstance(number, float) for number in seen[0])


def test_errors():
    empty = np.zeros((3, 4), dtype=bool)
    for call in (
        lambda: mask_centre_xy(empty),
        lambda: next_click(empty, empty),
        lambda: random_point_xy(empty, np.random.default_rng(0)),
    ):
        with pytest.raises(PromptError, match="empty"):
            call()
    with pytest.raises(PromptError, match="predicted_hw"):
        next_click(empty, empty.T)
    with pytest.raises(PromptError, match=r"\(H, W\)"):
        mask_centre_xy(empty[None])
