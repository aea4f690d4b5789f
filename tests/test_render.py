import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anymask.render import cut_out, draw_overlay, palette_rgb

GREY = np.full((90, 120, 3), 128, dtype=np.uint8)


def square(top, left, side, size_hw=(90, 120)):
    mask = np.zeros(size_hw, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_the_palette_is_stable_and_its_neighbours_differ():
    assert palette_rgb(0).shape == (0, 3)
    np.testing.assert_array_equal(palette_rgb(40)[:7], palette_rgb(7))
    steps = np.abs(np.diff(palette_rgb(40).astype(int), axis=0)).sum(axis=1)
    assert steps.min() > 60


def test_without_masks_and_prompts_it_is_the_image(photo):
    picture = draw_overlay(photo.image, [])
    np.testing.assert_array_equal(picture, photo.image)
    assert picture is not photo.image


def test_masks_are_tinted_in_their_colours():
    masks = [square(10, 10, 30), square(50, 80, 25)]
    picture = draw_overlay(GREY, masks, opacity=0.5)
    colours = palette_rgb(2).astype(float)
    for mask, colour, (y, x) in zip(masks, colours, [(25, 25), (62, 92)], strict=True):
        assert mask[y, x]
        np.testing.assert_allclose(picture[y, x], (128 + colour) / 2, atol=1)
    assert (picture[80, 20] == 128).all()
    assert (GREY == 128).all()


def test_a_small_mask_lies_on_top_of_a_large_one():
    small, large = square(30, 40, 20), square(5, 5, 80)
    colours = palette_rgb(2).astype(float)
    picture = draw_overlay(GREY, [small, large], opacity=1.0)
    np.testing.assert_allclose(picture[40, 50], colours[0], atol=1)
    np.testing.assert_allclose(picture[15, 15], colours[1], atol=1)


def test_opacity_zero_leaves_the_inside_as_it_was():
    picture = draw_overlay(GREY, [square(20, 20, 50)], opacity=0)
    assert (picture[40:50, 40:50] == 128).all()
    assert (picture != 128).any()  # its outline


def test_prompts_are_drawn_over_the_masks():
    masks = [square(5, 5, 80)]
    plain = draw_overlay(GREY, masks)
    points = np.array([[40, 30], [100, 70]])
    picture = draw_overlay(GREY, masks, points_xy=points, labels=np.array([1, 0]))
    red, green, _ = picture[30, 40].astype(int)
    assert green > red
    red, green, _ = picture[70, 100].astype(int)
    assert red > green
    boxed = draw_overlay(GREY, masks, box_xyxy=np.array([10.2, 10.7, 60, 60]))
    assert (boxed[11, 20:50] != plain[11, 20:50]).any()
    np.testing.assert_array_equal(boxed[40:50, 30:50], plain[40:50, 30:50])
    np.testing.assert_array_equal(draw_overlay(GREY, [], points_xy=points[:1])[30, 40], picture[30, 40])


def test_texts_are_written_in_the_masks():
    masks = [square(20, 30, 50)]
    plain, written = draw_overlay(GREY, masks), draw_overlay(GREY, masks, texts=["0.93"])
    changed = (plain != written).any(axis=2)
    assert changed.any()
    rows, columns = np.nonzero(changed)
    assert abs(rows.mean() - 45) < 12
    assert abs(columns.mean() - 55) < 12


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(
        lambda size_hw: arrays(bool, st.tuples(st.integers(0, 3), *map(st.just, size_hw)))
    )
)
def test_any_masks_on_any_size(masks):
    size_hw = masks.shape[1:]
    image = np.full((*size_hw, 3), 9, dtype=np.uint8)
    picture = draw_overlay(
        image,
        masks,
        texts=["1.00"] * len(masks),
        points_xy=np.array([[0, 0]]),
        labels=np.array([0]),
        box_xyxy=np.array([0, 0, size_hw[1], size_hw[0]]),
    )
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    assert (image == 9).all()


def test_views_and_locked_arrays_can_be_drawn_on(photo):
    image = photo.image[::-1, ::2]
    image.setflags(write=False)
    masks = photo.masks_khw[:, ::-1, ::2]
    expected = draw_overlay(np.ascontiguousarray(image), np.ascontiguousarray(masks))
    np.testing.assert_array_equal(draw_overlay(image, masks), expected)


def test_a_cut_out_object_stands_alone(photo):
    mask = photo.masks_khw[0]
    rows, columns = np.nonzero(mask)
    cut = cut_out(photo.image, mask)
    assert cut.dtype == np.uint8
    assert cut.shape == (np.ptp(rows) + 1, np.ptp(columns) + 1, 4)
    np.testing.assert_array_equal(
        cut[..., 3] == 255, mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    )
    np.testing.assert_array_equal(cut[cut[..., 3] == 255][:, :3], photo.image[mask])
    assert set(np.unique(cut[..., 3])) == {0, 255}


@pytest.mark.parametrize(("mask", "shape"), [(square(0, 0, 0), (1, 1, 4)), (square(89, 119, 1), (1, 1, 4))])
def test_the_smallest_cut_outs(mask, shape):
    cut = cut_out(GREY, mask)
    assert cut.shape == shape
    assert cut[0, 0, 3] == (255 if mask.any() else 0)
