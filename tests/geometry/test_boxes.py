import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anymask.geometry.boxes import (
    box_area,
    box_iou_matrix,
    box_nms,
    clip_boxes_xyxy,
    masks_to_boxes_xyxy,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

whole_boxes = arrays(np.int64, st.tuples(st.integers(0, 5), st.just(4)), elements=st.integers(-4, 14))


def pixels_of(box_xyxy, size=24, shift=6):
    """The box as pixels of a canvas, by the rule that x1 and y1 are exclusive."""
    mask = np.zeros((size, size), dtype=bool)
    x0, y0, x1, y1 = np.asarray(box_xyxy) + shift
    mask[y0:y1, x0:x1] = True
    return mask


@given(whole_boxes)
def test_both_conversions_undo_each_other(boxes):
    np.testing.assert_array_equal(xyxy_to_xywh(xywh_to_xyxy(boxes)), boxes)
    np.testing.assert_array_equal(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)


def test_conversion_of_one_box_and_of_none():
    np.testing.assert_array_equal(xywh_to_xyxy([2, 5, 3, 1]), [2, 5, 5, 6])
    np.testing.assert_array_equal(xyxy_to_xywh([2, 5, 5, 6]), [2, 5, 3, 1])
    assert xywh_to_xyxy(np.zeros((0, 4))).shape == (0, 4)


def test_clipping_cuts_at_the_edges():
    boxes = [[-5, -5, 5, 5], [90, 40, 120, 70], [10, 10, 20, 20], [200, 10, 300, 20]]
    clipped = clip_boxes_xyxy(boxes, (50, 100))
    np.testing.assert_array_equal(clipped[:3], [[0, 0, 5, 5], [90, 40, 100, 50], [10, 10, 20, 20]])
    assert box_area(clipped)[3] == 0


@given(whole_boxes)
def test_area_counts_pixels(boxes):
    np.testing.assert_array_equal(box_area(boxes), [pixels_of(box).sum() for box in boxes])


@given(whole_boxes, whole_boxes)
def test_iou_counts_pixels(a, b):
    matrix = box_iou_matrix(a, b)
    assert matrix.shape == (len(a), len(b))
    for i, first in enumerate(map(pixels_of, a)):
        for j, second in enumerate(map(pixels_of, b)):
            union = (first | second).sum()
            assert matrix[i, j] == pytest.approx((first & second).sum() / union if union else 0)


@given(arrays(bool, st.tuples(st.integers(0, 4), st.integers(1, 8), st.integers(1, 8))))
def test_boxes_around_masks_are_tight(masks):
    boxes = masks_to_boxes_xyxy(masks)
    assert boxes.shape == (len(masks), 4)
    for mask, box in zip(masks, boxes, strict=True):
        rows, columns = np.nonzero(mask)
        if rows.size == 0:
            np.testing.assert_array_equal(box, 0)
        else:
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(box, expected)


def test_boxes_of_masks_without_pixels():
    np.testing.assert_array_equal(masks_to_boxes_xyxy(np.zeros((2, 0, 5), dtype=bool)), np.zeros((2, 4)))


def test_suppression_keeps_the_first_of_those_that_overlap():
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 9], [2, 0, 12, 10]]
    assert box_nms(boxes, 0.7).tolist() == [0, 2, 4]  # the last overlaps the second, which is gone
    assert box_nms(boxes, 0.6).tolist() == [0, 2]
    assert box_nms(boxes, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert box_nms(np.zeros((0, 4)), 0.7).tolist() == []


def test_a_box_of_just_the_threshold_stays():
    assert box_nms([[0, 0, 10, 10], [0, 0, 10, 5]], 0.5).tolist() == [0, 1]
    assert box_nms([[0, 0, 10, 10], [0, 0, 10, 5]], 0.49).tolist() == [0]


@given(whole_boxes, st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_suppression_leaves_no_two_that_overlap_and_drops_none_without_reason(boxes, threshold):
    kept = box_nms(boxes, threshold).tolist()
    ious = box_iou_matrix(boxes, boxes)
    for index in range(len(boxes)):
        better = [other for other in kept if other < index]
        assert (index in kept) == all(ious[index, other] <= threshold for other in better)
