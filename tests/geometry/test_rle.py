import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from anymask.errors import DataError
from anymask.geometry.boxes import masks_to_boxes_xyxy, xyxy_to_xywh
from anymask.geometry.rle import (
    checked_rle,
    decode_rle,
    decode_rle_window,
    decode_rles,
    encode_rle,
    encode_rles,
    rle_area,
    rle_size_hw,
    rle_to_box_xywh,
)

some_masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


def plain_counts(mask_hw: np.ndarray) -> list[int]:
    """Run lengths of a mask by the plainest loop."""
    counts, value = [0], False
    for pixel in mask_hw.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@given(some_masks)
def test_a_mask_survives_the_way_there_and_back(mask):
    rle = encode_rle(mask)
    assert rle["size"] == list(mask.shape)
    assert isinstance(rle["counts"], str)
    np.testing.assert_array_equal(decode_rle(rle), mask)
    assert decode_rle(rle).dtype == bool


@given(some_masks)
def test_every_form_of_counts_means_the_same(mask):
    rle = encode_rle(mask)
    size = rle["size"]
    for counts in (rle["counts"], rle["counts"].encode(), plain_counts(mask), np.array(plain_counts(mask))):
        form = {"size": size, "counts": counts}
        np.testing.assert_array_equal(decode_rle(form), mask)
        assert rle_area(form) == mask.sum()
        assert rle_to_box_xywh(form) == tuple(xyxy_to_xywh(masks_to_boxes_xyxy(mask[None]))[0])


def test_long_runs_agree_with_pycocotools(rng):
    mask = np.zeros((1500, 2100), dtype=bool)
    for _ in range(30):
        row, column, height, width = rng.integers(1, 1400, 4)
        mask[row : row + height, column : column + width] ^= True
    rle = encode_rle(mask)
    assert rle_area(rle) == coco_mask.area(rle) == mask.sum()
    assert rle_to_box_xywh(rle) == tuple(coco_mask.toBbox(rle))
    np.testing.assert_array_equal(decode_rle(rle), mask)


def test_many_at_once(photo):
    rles = encode_rles(photo.masks_khw)
    decoded = decode_rles(rles)
    np.testing.assert_array_equal(decoded, photo.masks_khw)
    assert decoded.flags.c_contiguous
    assert rles[2] == encode_rle(photo.masks_khw[2])


def test_no_masks_at_all():
    assert encode_rles(np.zeros((0, 5, 6), dtype=bool)) == []
    assert decode_rles([]).shape == (0, 0, 0)
    assert decode_rles([], size_hw=(5, 6)).shape == (0, 5, 6)


def test_integers_are_masks_where_not_zero():
    mask = np.array([[0, 255], [-1, 0]], dtype=np.int16)
    np.testing.assert_array_equal(decode_rle(encode_rle(mask)), mask != 0)


@pytest.mark.parametrize(
    "masks", [np.zeros((2, 3)), np.zeros((1, 2, 3)), np.zeros((1, 0, 3), dtype=bool), np.zeros(3, dtype=bool)]
)
def test_what_is_no_mask_is_not_encoded(masks):
    with pytest.raises(DataError, match="masks_khw"):
        encode_rles(masks)


def test_runs_of_no_length_are_allowed():
    form = {"size": [2, 3], "counts": [0, 0, 2, 1, 0, 1, 2, 0]}
    expected = np.array([[0, 1, 0], [0, 1, 0]], dtype=bool)
    np.testing.assert_array_equal(decode_rle(form), expected)
    assert rle_area(form) == 2
    assert rle_to_box_xywh(form) == (1, 0, 1, 2)
    assert rle_to_box_xywh({"size": [2, 3], "counts": [0, 0, 6]}) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("counts", "word"),
    [
        ([1, 2], "add up to 3"),
        ([7, 0, 3], "add up to 10"),
        ([], "add up to 0"),
        ("", "add up to 0"),
        ([8, -3, 1], "negative"),
        ([2**40, 6], "up to"),
        ([2**70], "whole numbers"),
        ([2**63 - 1, 2**63 - 1, 8], "up to"),
        ([1.5, 4.5], "whole numbers"),
        ([[1, 2], [3]], "whole numbers"),
        ([[1, 2], [1, 2]], "whole numbers"),
        ([True, False], "whole numbers"),
        (["6"], "whole numbers"),
        (None, "compressed text"),
        (6, "compressed text"),
        ({"a": 1}, "compressed text"),
        ("6é", "ASCII"),
        ("6 ", "ASCII"),
        ("6p", "ASCII"),
        ("00P", "middle"),
        ("oooooooooo0", "too long"),
        ("nO6", "negative"),
    ],
)
def test_broken_counts(counts, word):
    broken = {"size": [2, 3], "counts": counts}
    for function in (decode_rle, rle_area, rle_to_box_xywh):
        with pytest.raises(DataError, match=word):
            function(broken)


@pytest.mark.parametrize(
    "size", [None, [2], [2, 3, 4], [0, 3], [-2, 3], [2.0, 3], "23", [True, 6], 6, [2**20, 2**20], {2, 3}]
)
def test_broken_sizes(size):
    with pytest.raises(DataError, match="rle size"):
        decode_rle({"size": size, "counts": [6]})
    with pytest.raises(DataError, match="rle size"):
        rle_size_hw({"counts": [6]})


@pytest.mark.parametrize("rle", [None, [], "6", 3])
def test_what_is_no_code_is_not_decoded(rle):
    with pytest.raises(DataError, match=r"rles\[0\]"):
        decode_rle(rle)


@given(
    text=st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_random_text_is_decoded_whole_or_refused(text, size):
    try:
        mask = decode_rle({"size": size, "counts": text})
    except DataError:
        return
    assert mask.shape == size
    assert mask.sum() == rle_area({"size": size, "counts": text})


@given(mask=some_masks, place=st.integers(0, 10**6), character=st.integers(48, 111))
def test_one_damaged_character_never_gives_a_mask_of_another_size(mask, place, character):
    counts = bytearray(encode_rle(mask)["counts"].encode())
    counts[place % len(counts)] = character
    damaged = {"size": list(mask.shape), "counts": bytes(counts)}
    try:
        decoded = decode_rle(damaged)
    except DataError:
        return
    assert decoded.shape == mask.shape


def test_codes_of_different_sizes_are_named():
    rles = [{"size": [2, 3], "counts": [6]}, {"size": [3, 2], "counts": [6]}]
    with pytest.raises(DataError, match=r"rles\[1\].*\[3, 2\].*\[2, 3\]"):
        decode_rles(rles)
    with pytest.raises(DataError, match=r"rles\[0\]"):
        decode_rles(rles[:1], size_hw=(4, 4))


@st.composite
def masks_and_windows(draw):
    """A mask and a window x0, y0, x1, y1 in it."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    mask = draw(arrays(np.bool_, (height, width)))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return mask, (x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))


@given(masks_and_windows())
def test_a_window_of_a_code_is_the_window_of_its_mask(case):
    mask, window = case
    x0, y0, x1, y1 = window
    part = decode_rle_window(encode_rle(mask), window)
    assert part.flags.c_contiguous
    np.testing.assert_array_equal(part, mask[y0:y1, x0:x1])


@given(some_masks, st.lists(st.integers(0, 30), max_size=3))
def test_a_code_with_empty_runs_is_written_anew_without(mask, places):
    counts = plain_counts(mask)
    for place in places:
        counts[place:place] = [0, 0]
    code = {"size": list(mask.shape), "counts": counts}
    np.testing.assert_array_equal(decode_rle(code), mask)
    assert checked_rle(code) == encode_rle(mask)
    assert checked_rle(encode_rle(mask)) == encode_rle(mask)


@pytest.mark.parametrize("window", [(0, 0, 0, 2), (-1, 0, 2, 2), (0, 0, 5, 2), (0, 1, 2, 4)])
def test_a_window_outside_is_refused(window):
    with pytest.raises(DataError, match="window_xyxy"):
        decode_rle_window(encode_rle(np.ones((3, 4), bool)), window)
