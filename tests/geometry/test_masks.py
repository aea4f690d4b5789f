import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anymask.errors import DataError
from anymask.geometry import masks as masks_module
from anymask.geometry.masks import mask_iou, mask_iou_matrix


@st.composite
def two_stacks(draw):
    size = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    return tuple(draw(arrays(bool, st.tuples(st.integers(0, 4), *map(st.just, size)))) for _ in range(2))


@given(two_stacks())
def test_matrix_holds_the_single_ious(stacks):
    a, b = stacks
    matrix = mask_iou_matrix(a, b)
    assert matrix.shape == (len(a), len(b))
    for i, first in enumerate(a):
        for j, second in enumerate(b):
            pixels, others = set(map(tuple, np.argwhere(first))), set(map(tuple, np.argwhere(second)))
            expected = len(pixels & others) / len(pixels | others) if pixels | others else 0
            assert matrix[i, j] == mask_iou(first, second) == expected


def test_parts_of_the_image_add_up(monkeypatch, photo):
    whole = mask_iou_matrix(photo.masks_khw, photo.masks_khw[::-1])
    monkeypatch.setattr(masks_module, "_PIXELS_AT_ONCE", 1000)
    np.testing.assert_array_equal(mask_iou_matrix(photo.masks_khw, photo.masks_khw[::-1]), whole)
    np.testing.assert_array_equal(whole, np.eye(4)[::-1])


def test_two_empty_masks_have_no_overlap():
    empty = np.zeros((3, 4), dtype=bool)
    assert mask_iou(empty, empty) == 0
    assert mask_iou_matrix(empty[None], empty[None]) == 0


def test_integers_count_where_not_zero():
    assert mask_iou(np.array([[255, 0]]), np.array([[1, 0]])) == 1


def test_masks_of_different_images_are_refused():
    with pytest.raises(DataError, match="sizes"):
        mask_iou(np.ones((3, 4)), np.ones((1, 4)))
    with pytest.raises(DataError, match="sizes"):
        mask_iou_matrix(np.ones((2, 3, 4)), np.ones((2, 4, 3)))
