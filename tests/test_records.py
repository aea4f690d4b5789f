import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anymask.geometry.resize import Frame, logits_to_original, mask_at_original
from anymask.geometry.rle import decode_rle
from anymask.records import Masks

# A model frame of 96 x 128 whose last rows are padding.
FRAME = Frame(original_hw=(60, 80), resized_hw=(90, 120), padded_hw=(96, 128))


def blobs(seed: int, count: int = 3) -> np.ndarray:
    """Logits (count, 24, 32) of smooth regions with holes and islands."""
    noise = np.random.default_rng(seed).normal(size=(count, 24, 32)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(one, (0, 0), 1.5) for one in noise])


def make_masks(logits_khw: np.ndarray, **fields) -> Masks:
    count = len(logits_khw)
    scores = np.linspace(0.9, 0.5, count).astype(np.float32)
    return Masks(logits_khw, scores, np.arange(1, count + 1), FRAME, **fields)


def test_masks_are_the_logits_above_zero_at_the_original_size():
    masks = make_masks(blobs(0))
    assert masks.masks.shape == (3, 60, 80)
    assert masks.masks.dtype == bool
    np.testing.assert_array_equal(masks.masks, logits_to_original(masks.logits, FRAME) > 0)
    np.testing.assert_array_equal(masks.best, masks.masks[0])


def test_padding_is_not_part_of_the_answer():
    logits = np.full((1, 24, 32), -1, dtype=np.float32)
    logits[:, :, 31] = 9  # wholly in the padding: columns 124 to 127 of the model, past 120
    assert not make_masks(logits).masks.any()


def test_masks_are_made_when_asked_for_and_once(monkeypatch):
    asked = []

    def counted(logits_hw, frame):
        asked.append(logits_hw.shape)
        return mask_at_original(logits_hw, frame)

    monkeypatch.setattr("anymask.records.mask_at_original", counted)
    masks = make_masks(blobs(1))
    assert len(masks) == 3
    assert asked == []
    assert masks.best is masks.best
    assert len(asked) == 1
    assert masks.masks is masks.masks
    masks.to_rle()
    masks.to_polygons()
    assert len(asked) == 3


def test_iteration_and_indexing():
    masks = make_masks(blobs(2))
    assert len(list(masks)) == len(masks) == 3
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, masks.masks[index])
        np.testing.assert_array_equal(mask, masks[index])
    np.testing.assert_array_equal(masks[-1], masks.masks[2])
    with pytest.raises(IndexError):
        masks[3]


def test_a_valid_mask_cuts_every_mask():
    valid = np.zeros((60, 80), dtype=bool)
    valid[:, 20:50] = True
    free, bound = make_masks(blobs(3)), make_masks(blobs(3), valid_hw=valid)
    np.testing.assert_array_equal(bound.masks, free.masks & valid)
    np.testing.assert_array_equal(bound.best, free.best & valid)
    assert (bound.masks != free.masks).any()


@given(st.integers(0, 2**20))
def test_run_length_codes_give_the_masks_back(seed):
    masks = make_masks(blobs(seed))
    codes = masks.to_rle()
    assert len(codes) == 3
    for code, mask in zip(codes, masks, strict=True):
        assert code["size"] == [60, 80]
        assert isinstance(code["counts"], str)
        np.testing.assert_array_equal(decode_rle(code), mask)


@given(st.integers(0, 2**20))
def test_polygons_give_the_masks_back(seed):
    masks = make_masks(blobs(seed))
    found = masks.to_polygons()
    assert len(found) == 3
    for regions, mask in zip(found, masks, strict=True):
        rebuilt = np.zeros((60, 80), dtype=np.uint8)
        for outline, *holes in regions:
            assert outline.dtype == np.int32
            region = cv2.fillPoly(np.zeros_like(rebuilt), [outline], 1)
            for hole in holes:
                inside = cv2.fillPoly(np.zeros_like(rebuilt), [hole], 1)
                region[cv2.polylines(inside, [hole], True, 0) == 1] = 0
            rebuilt |= region
        np.testing.assert_array_equal(rebuilt == 1, mask)


def test_an_answer_without_a_pixel():
    masks = make_masks(np.full((1, 24, 32), -1, dtype=np.float32))
    assert masks.to_polygons() == [[]]
    assert not decode_rle(masks.to_rle()[0]).any()
    assert masks.show().size == (80, 60)


def test_show_tints_the_best_mask_alone(rng):
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    before = image.copy()
    masks = make_masks(blobs(4), image_hwc=image)
    picture = masks.show()
    assert isinstance(picture, Image.Image)
    assert picture.size == (80, 60)
    np.testing.assert_array_equal(image, before)
    changed = (np.array(picture) != image).any(axis=2)
    inside = cv2.erode(masks.best.astype(np.uint8), np.ones((3, 3))) == 1
    assert changed[inside].mean() > 0.95
    assert changed.mean() < 1

    other = np.zeros_like(image)
    assert (np.array(masks.show(other)) != np.array(picture)).any()


def test_show_without_an_image_has_a_black_ground():
    masks = make_masks(blobs(5))
    picture = np.array(masks.show())
    assert picture.shape == (60, 80, 3)
    assert (picture == 0).all(axis=2).any()
    assert (picture != 0).any()
