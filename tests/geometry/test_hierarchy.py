import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anymask.errors import DataError
from anymask.geometry.hierarchy import depths, label_map, parent_ids
from anymask.geometry.rle import encode_rle, encode_rles


@st.composite
def stacks(draw, most=6):
    size = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    return draw(arrays(bool, st.tuples(st.integers(1, most), *map(st.just, size))))


def box_mask(x0, y0, x1, y1, size_hw=(20, 30)):
    mask = np.zeros(size_hw, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


@given(stacks(), st.sampled_from([0.5, 0.9, 1.0]))
def test_a_parent_is_the_smallest_larger_mask_around(masks, containment):
    areas = masks.sum(axis=(1, 2))
    for index, parent in enumerate(parent_ids(encode_rles(masks), containment)):
        around = [
            other
            for other in range(len(masks))
            if areas[other] > areas[index] > 0 and (masks[index] & masks[other]).sum() / areas[index] >= containment
        ]
        if parent is None:
            assert not around
        else:
            assert parent in around
            assert areas[parent] == min(areas[around])


@given(stacks())
def test_depths_count_the_parents_and_always_end(masks):
    parents = parent_ids(encode_rles(masks))
    for index, depth in enumerate(depths(parents)):
        steps = 0
        while parents[index] is not None:
            index, steps = parents[index], steps + 1
        assert depth == steps


def test_whole_part_and_subpart():
    person, shirt, button, dog = (
        box_mask(2, 0, 18, 20),
        box_mask(4, 5, 16, 12),
        box_mask(9, 8, 11, 10),
        box_mask(20, 10, 30, 20),
    )
    sleeve = box_mask(3, 5, 5, 11)  # half of it lies on the shirt
    parents = parent_ids(encode_rles(np.stack([button, person, dog, shirt, sleeve])))
    assert parents == [3, None, None, 1, 1]
    assert depths(parents) == [2, 0, 0, 1, 1]
    assert parent_ids(encode_rles(np.stack([shirt, sleeve])), containment=0.5) == [None, 0]


def test_equal_masks_and_empty_masks_are_nobodys_part():
    mask, empty = box_mask(1, 1, 5, 5), box_mask(0, 0, 0, 0)
    assert parent_ids(encode_rles(np.stack([mask, mask, empty]))) == [None, None, None]
    assert parent_ids([]) == []
    assert depths([]) == []


def test_foreign_codes_with_empty_runs_are_understood():
    whole = {"size": [4, 3], "counts": [0, 12]}
    most = {"size": [4, 3], "counts": [0, 0, 2, 0, 0, 10]}  # all but the first two pixels
    two = {"size": [4, 3], "counts": [2, 1, 0, 1, 8]}
    assert parent_ids([two, whole, most]) == [2, None, 1]


@given(stacks())
def test_each_pixel_goes_to_the_smallest_mask_on_it(masks):
    labels = label_map(encode_rles(masks))
    areas = masks.sum(axis=(1, 2))
    assert labels.dtype == np.uint16
    for place in np.ndindex(labels.shape):
        covering = np.flatnonzero(masks[(slice(None), *place)])
        expected = min(covering, key=lambda index: (areas[index], index)) + 1 if covering.size else 0
        assert labels[place] == expected


@given(stacks(), st.data())
def test_each_pixel_goes_to_the_best_mask_on_it(masks, data):
    scores = data.draw(
        st.lists(st.sampled_from([0.2, 0.5, 0.9]), min_size=len(masks), max_size=len(masks)), label="scores"
    )
    labels = label_map(encode_rles(masks), scores, winner="score")
    areas = masks.sum(axis=(1, 2))
    for place in np.ndindex(labels.shape):
        covering = np.flatnonzero(masks[(slice(None), *place)])
        best = min(covering, key=lambda index: (-scores[index], areas[index], index), default=-1)
        assert labels[place] == best + 1


def test_scores_settle_equal_sizes():
    left, right = box_mask(0, 0, 10, 10), box_mask(5, 0, 15, 10)
    codes = encode_rles(np.stack([left, right]))
    assert label_map(codes, [0.5, 0.9])[0, 7] == 2
    assert label_map(codes, [0.9, 0.5])[0, 7] == 1
    assert label_map(codes)[0, 7] == 1


def test_no_masks_make_an_empty_map():
    labels = label_map([], size_hw=(3, 4))
    assert labels.shape == (3, 4)
    assert not labels.any()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda code: parent_ids([code, encode_rle(np.ones((2, 2), bool))]), "size"),
        (lambda code: parent_ids([code], containment=0), "containment is 0"),
        (lambda code: parent_ids([{"size": [2, 2], "counts": "09"}]), "add up"),
        (lambda code: label_map([code, {"size": [2, 2], "counts": [4]}]), "size"),
        (lambda code: label_map([code], [0.1, 0.2]), "scores"),
        (lambda code: label_map([code], winner="score"), "scores is None"),
        (lambda code: label_map([code], winner="largest"), "winner"),
        (lambda code: label_map([]), "size_hw"),
        (lambda code: label_map([code] * 65536), "65536"),
    ],
)
def test_what_cannot_be_is_refused(call, word):
    with pytest.raises(DataError, match=word):
        call(encode_rle(box_mask(0, 0, 2, 2)))
