import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from anymask.geometry.resize import (
    fit_frame,
    interpolation_matrix,
    logits_to_original,
    longest_side_size,
    mask_at_original,
    mask_to_model,
    resize_image,
)

sides = st.integers(1, 3000)
small_sides = st.integers(1, 90)
LONGEST = 64


@given(sides, sides, st.sampled_from([32, 512, 1024]))
def test_the_longest_side_fits_and_the_aspect_stays(height, width, longest):
    new_height, new_width = longest_side_size((height, width), longest)
    assert max(new_height, new_width) == longest
    scale = longest / max(height, width)
    assert abs(new_height - height * scale) <= 0.5 or new_height == 1
    assert abs(new_width - width * scale) <= 0.5 or new_width == 1


@pytest.mark.parametrize(
    ("size_hw", "expected_hw"),
    [
        ((1024, 1024), (1024, 1024)),
        ((600, 800), (768, 1024)),
        ((30, 20_000), (2, 1024)),
        ((1, 5000), (1, 1024)),
        ((1, 1), (1024, 1024)),
        ((1025, 2048), (513, 1024)),  # 512.5 rounds up, as the reference's int(x + 0.5)
    ],
)
def test_known_sizes(size_hw, expected_hw):
    assert longest_side_size(size_hw, 1024) == expected_hw


@given(sides, sides, st.sampled_from([None, 16, 32]))
def test_the_frame_holds_the_image_with_less_padding_than_a_multiple(height, width, multiple):
    frame = fit_frame((height, width), 512, multiple)
    assert frame.original_hw == (height, width)
    if multiple is None:
        assert frame.padded_hw == (512, 512)
    else:
        for resized, padded in zip(frame.resized_hw, frame.padded_hw, strict=True):
            assert padded % multiple == 0
            assert 0 <= padded - resized < multiple


@given(sides, sides, st.floats(0, 1), st.floats(0, 1))
def test_points_keep_their_place_in_the_image(height, width, share_x, share_y):
    frame = fit_frame((height, width), 512, 32)
    point = np.array([share_x * width, share_y * height])
    in_model = frame.points_to_model(point)
    assert in_model.dtype == np.float32
    expected = [share_x * frame.resized_hw[1], share_y * frame.resized_hw[0]]
    np.testing.assert_allclose(in_model, expected, rtol=1e-5, atol=1e-4)
    back = in_model / np.array(frame.scale_xy)
    np.testing.assert_allclose(back, point, rtol=1e-5, atol=1e-3)


def test_points_of_any_shape():
    frame = fit_frame((100, 200), 400, None)
    corners = np.array([[0, 0], [200, 100]])
    np.testing.assert_array_equal(frame.points_to_model(corners), [[0, 0], [400, 200]])
    boxes = np.stack([corners, corners])
    np.testing.assert_array_equal(frame.points_to_model(boxes)[1], [[0, 0], [400, 200]])
    assert frame.points_to_model(np.zeros((0, 2))).shape == (0, 2)


@given(small_sides, small_sides, small_sides, small_sides)
def test_resizing_keeps_a_plain_image_plain(height, width, new_height, new_width):
    image = np.full((height, width, 3), (200, 7, 90), dtype=np.uint8)
    resized = resize_image(image, (new_height, new_width))
    assert resized.shape == (new_height, new_width, 3)
    assert (resized == (200, 7, 90)).all()


def test_shrinking_averages():
    stripes = np.zeros((8, 4000), dtype=np.uint8)
    stripes[:, ::2] = 200
    assert (resize_image(stripes, (8, 40)) == 100).all()


@given(small_sides, small_sides, small_sides, small_sides, st.sampled_from([(), (1,), (3,)]), st.integers(0, 99))
def test_resizing_is_pillows_to_a_level(height, width, new_height, new_width, channels, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    image.setflags(write=False)
    resized = resize_image(image, (new_height, new_width))
    assert resized.shape == (new_height, new_width, *channels)
    assert resized.dtype == np.uint8
    pillow = Image.fromarray(image.squeeze(2) if channels == (1,) else image)
    reference = np.asarray(pillow.resize((new_width, new_height), Image.Resampling.BILINEAR)).reshape(resized.shape)
    assert np.abs(resized.astype(int) - reference).max() <= 1


def test_one_side_may_grow_while_the_other_shrinks():
    image = np.zeros((2, 400, 3), dtype=np.uint8)
    image[:, 200:] = 240
    image[0, ::2] += 10
    resized = resize_image(image, (8, 4))
    reference = Image.fromarray(image).resize((4, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized, np.asarray(reference))
    assert resized[0, 0, 0] == 5  # the mean of 0 and 10, far from the edge at the middle
    assert (np.diff(resized[:, 0, 0].astype(int)) <= 0).all()


@given(small_sides, small_sides, st.floats(0.3, 1))
def test_interpolation_weights_are_shares(output_size, input_size, share):
    matrix = interpolation_matrix(output_size, input_size, share * input_size)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    assert (matrix >= 0).all()
    assert (np.count_nonzero(matrix, axis=1) <= 2).all()
    centre = matrix @ np.arange(input_size)  # moves on evenly, never backwards
    assert (np.diff(centre) >= -1e-4).all()


@given(small_sides, small_sides, st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**31))
def test_without_padding_it_is_bilinear_interpolation(height, width, rows, columns, seed):
    logits = np.random.default_rng(seed).normal(size=(2, rows, columns)).astype(np.float32)
    frame = fit_frame((height, width), LONGEST, 1)
    assert frame.padded_hw == frame.resized_hw
    ours = logits_to_original(logits, frame)
    tensor = torch.from_numpy(logits)[:, None]
    theirs = F.interpolate(tensor, size=(height, width), mode="bilinear", align_corners=False)[:, 0]
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


@given(small_sides, small_sides, st.sampled_from([None, 32]), st.sampled_from([1, 200, 10**6]), st.integers(0, 2**31))
def test_a_mask_is_where_its_logits_are_above_0(height, width, multiple, pixels_at_once, seed):
    frame = fit_frame((height, width), LONGEST, multiple)
    logits = np.random.default_rng(seed).normal(size=[side // 4 for side in frame.padded_hw]).astype(np.float32)
    full = logits_to_original(logits[None], frame)[0]
    mask = mask_at_original(logits, frame, pixels_at_once)
    assert mask.dtype == bool
    assert mask.shape == (height, width)
    is_clear = np.abs(full) > 1e-5  # both round
    np.testing.assert_array_equal(mask[is_clear], full[is_clear] > 0)


@given(small_sides, small_sides, st.sampled_from([None, 32]))
def test_logits_lose_their_padding(height, width, multiple):
    """A logit map that holds its own model coordinate comes back as the pixel's place in the model."""
    frame = fit_frame((height, width), LONGEST, multiple)
    rows, columns = (side // 4 for side in frame.padded_hw)
    centres = np.arange(columns) * 4 + 1.5  # model pixel coordinates of the cells' centres
    logits = np.broadcast_to(centres, (1, rows, columns)).astype(np.float32)
    x = logits_to_original(logits, frame)[0]
    expected = np.clip((np.arange(width) + 0.5) * frame.scale_xy[0] - 0.5, centres[0], centres[-1])
    np.testing.assert_allclose(x, np.broadcast_to(expected, x.shape), atol=1e-3)


masks = arrays(bool, st.tuples(small_sides, small_sides))


@given(masks, st.sampled_from([None, 32]))
def test_a_mask_covers_its_share_of_the_model(mask, multiple):
    frame = fit_frame(mask.shape, LONGEST, multiple)
    grid_hw = (frame.padded_hw[0] // 4, frame.padded_hw[1] // 4)
    share = mask_to_model(mask, frame, grid_hw)
    assert share.shape == grid_hw
    assert share.dtype == np.float32
    assert share.min() >= 0
    assert share.max() <= 1 + 1e-6
    inside = mask_to_model(np.ones_like(mask), frame, grid_hw)
    assert (share <= inside + 1e-5).all()
    # The whole image covers exactly its part of the frame, to the fraction of a cell.
    np.testing.assert_allclose(inside.sum() * 16, np.prod(frame.resized_hw), rtol=1e-5)
    if max(mask.shape) >= LONGEST:  # averaged down, so that the mask's area stays
        expected = mask.mean() * np.prod(frame.resized_hw)
        np.testing.assert_allclose(share.sum() * 16, expected, rtol=0.02, atol=1)


@given(masks.filter(np.any))
def test_every_pixel_of_a_mask_is_seen(mask):
    """The cell that holds a mask pixel's centre is never zero: `valid_mask` relies on it."""
    frame = fit_frame(mask.shape, LONGEST, 32)
    grid_hw = (frame.padded_hw[0] // 4, frame.padded_hw[1] // 4)
    share = mask_to_model(mask, frame, grid_hw)
    rows, columns = np.nonzero(mask)
    x = ((columns + 0.5) * frame.scale_xy[0] / 4).astype(int)
    y = ((rows + 0.5) * frame.scale_xy[1] / 4).astype(int)
    assert (share[y, x] > 0).all()


def test_a_mask_goes_in_and_comes_back():
    mask = np.zeros((300, 480), dtype=np.uint8)
    cv2.ellipse(mask, (200, 140), (120, 80), 25, 0, 360, 1, -1)
    frame = fit_frame(mask.shape, 512, 32)
    logits = mask_to_model(mask, frame, (frame.padded_hw[0] // 4, frame.padded_hw[1] // 4)) - 0.5
    back = logits_to_original(logits[None], frame)[0] > 0
    assert (back & (mask == 1)).sum() / (back | (mask == 1)).sum() > 0.99
