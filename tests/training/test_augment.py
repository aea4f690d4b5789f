import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anymask.geometry.resize import resize_image
from anymask.training.augment import Augmentation, Crop, draw_crop, jitter_colour

sides = st.integers(1, 400)
seeds = st.integers(0, 2**30)
TINY_RECIPE = Augmentation(scale_range=(0.7, 2.0), aspect_jitter=0.3, flip=True)
PAPER_JITTER = Augmentation(scale_range=(0.1, 2.0))


@given(sides, sides, seeds)
def test_without_jitter_it_is_the_whole_image(height, width, seed):
    crop = draw_crop((height, width), 64, Augmentation(), np.random.default_rng(seed))
    assert (crop.x0, crop.y0, crop.x1, crop.y1) == (0, 0, width, height)
    assert max(crop.target_hw) == 64
    scale = 64 / max(height, width)
    np.testing.assert_allclose(crop.target_hw, np.array([height, width]) * scale, atol=1)
    assert not crop.is_flipped


@given(sides, sides, seeds, st.sampled_from([TINY_RECIPE, PAPER_JITTER]))
def test_a_window_lies_in_the_image_and_fits_the_crop(height, width, seed, augmentation):
    crop = draw_crop((height, width), 64, augmentation, np.random.default_rng(seed))
    assert 0 <= crop.x0 < crop.x1 <= width
    assert 0 <= crop.y0 < crop.y1 <= height
    assert 1 <= min(crop.target_hw) <= max(crop.target_hw) <= 64
    image = np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)
    cropped = crop.apply(image)
    assert cropped.shape == (64, 64, 3)
    target_h, target_w = crop.target_hw
    assert (cropped[:target_h, :target_w] > 0).all()
    assert (cropped[target_h:] == 0).all()
    assert (cropped[:, target_w:] == 0).all()


@given(seeds)
def test_scales_and_aspects_stay_in_their_range(seed):
    height, width = 300, 200
    crop = draw_crop((height, width), 100, TINY_RECIPE, np.random.default_rng(seed))
    scale_y = crop.target_hw[0] / (crop.y1 - crop.y0)
    scale_x = crop.target_hw[1] / (crop.x1 - crop.x0)
    mean_scale = np.sqrt(scale_x * scale_y) / (100 / height)
    assert 0.7 * 0.97 < mean_scale < 2.0 * 1.03
    assert abs(np.log(scale_x / scale_y)) < 0.3 + 0.05


def test_the_whole_range_is_drawn():
    crops = [draw_crop((300, 300), 100, PAPER_JITTER, np.random.default_rng(seed)) for seed in range(400)]
    scales = np.array([crop.target_hw[0] / (crop.y1 - crop.y0) * 3 for crop in crops])
    assert scales.min() < 0.12
    assert scales.max() > 1.9
    places = np.array([crop.x0 for crop in crops if crop.x1 - crop.x0 < 200])
    assert places.min() < 10
    assert places.max() > 130
    jittered = [draw_crop((300, 300), 100, TINY_RECIPE, np.random.default_rng(seed)) for seed in range(400)]
    aspects = [np.log(np.divide(*crop.target_hw) * (crop.x1 - crop.x0) / (crop.y1 - crop.y0)) for crop in jittered]
    assert min(aspects) < -0.28
    assert max(aspects) > 0.28
    flips = [draw_crop((9, 9), 9, TINY_RECIPE, np.random.default_rng(s)).is_flipped for s in range(400)]
    assert np.mean(flips) == pytest.approx(0.5, abs=0.08)


@given(seeds)
def test_image_and_mask_stay_on_each_other(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((70, 90), dtype=np.uint8)
    mask[20:50, 10:60] = 255
    crop = draw_crop(mask.shape, 64, TINY_RECIPE, rng)
    image = np.repeat(mask[..., None], 3, axis=2)
    np.testing.assert_array_equal(crop.apply(image)[..., 0], crop.apply(mask))


def test_a_flip_turns_the_image_and_leaves_the_padding_on_the_right():
    image = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)
    straight, flipped = (
        Crop(image.shape[:2], 0, 0, 3, 2, (2, 3), 4, is_flipped).apply(image) for is_flipped in (False, True)
    )
    assert straight.tolist() == [[1, 2, 3, 0], [4, 5, 6, 0], [0] * 4, [0] * 4]
    assert flipped.tolist() == [[3, 2, 1, 0], [6, 5, 4, 0], [0] * 4, [0] * 4]


def test_a_window_is_cut_where_it_says():
    image = np.arange(30, dtype=np.uint8).reshape(5, 6)
    np.testing.assert_array_equal(Crop(image.shape[:2], 2, 1, 5, 4, (3, 3), 3, False).apply(image), image[1:4, 2:5])


def test_colour_strength_zero_changes_nothing(photo, rng):
    np.testing.assert_array_equal(jitter_colour(photo.image, 0, rng), photo.image)


@given(seeds, st.floats(0.1, 2))
def test_colours_change_but_not_the_format(seed, strength):
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    before = image.copy()
    jittered = jitter_colour(image, strength, np.random.default_rng(seed))
    assert jittered.shape == image.shape
    assert jittered.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(jittered, jitter_colour(image, strength, np.random.default_rng(seed)))


def test_colour_jitter_is_noticeable(photo):
    means = [jitter_colour(photo.image, 1.0, np.random.default_rng(seed)).mean() for seed in range(60)]
    assert np.std(means) > 10


@given(seeds, st.sampled_from([2, 4, 8]))
def test_a_smaller_picture_gives_nearly_the_same_crop(seed, shrink):
    rows, columns = np.mgrid[:160, :240]
    image = np.stack([rows, columns, (rows + columns) // 2], axis=2).astype(np.uint8)
    crop = draw_crop((160, 240), 24, Augmentation(scale_range=(1.0, 2.0)), np.random.default_rng(seed))
    smaller = resize_image(image, (160 // shrink, 240 // shrink))
    difference = np.abs(crop.apply(image).astype(int) - crop.apply(smaller))
    assert difference.max() <= 1.5 * shrink + 2
    assert 0 < crop.scale <= 1
