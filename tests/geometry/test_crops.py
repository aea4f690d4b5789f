"""Crops and grids of automatic generation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anymask.geometry.crops import Crop, layered_crops, point_grid, touches_inner_border

PAPER_OVERLAP = 512 / 1500
sides = st.integers(1, 400)


def test_the_papers_crops():
    """A photo of 1500 pixels: 2x2 crops that share 512 of them, and 4x4 that share 256."""
    crops = layered_crops((1500, 2250), 2, PAPER_OVERLAP)
    assert [crop.layer for crop in crops] == [0] + 4 * [1] + 16 * [2]
    assert crops[0].box_xyxy == (0, 0, 2250, 1500)
    assert crops[0].box_xywh == (0.0, 0.0, 2250.0, 1500.0)
    assert [crop.box_xyxy for crop in crops[1:5]] == [
        (0, 0, 1381, 1006),
        (869, 0, 2250, 1006),
        (0, 494, 1381, 1500),
        (869, 494, 2250, 1500),
    ]
    first, second, below = crops[5], crops[6], crops[9]
    assert first.box_xyxy == (0, 0, 755, 567)
    assert first.size_hw == (567, 755)
    assert first.box_xyxy[2] - second.box_xyxy[0] == 256
    assert first.box_xyxy[3] - below.box_xyxy[1] == 256
    assert crops[20].box_xyxy[2:] == (2250, 1500)


@given(sides, sides, st.integers(0, 3), st.floats(0, 0.9))
def test_crops_cover_every_pixel_and_leave_none(height, width, layers, overlap_ratio):
    crops = layered_crops((height, width), layers, overlap_ratio)
    for layer in range(layers + 1):
        covered = np.zeros((height, width), dtype=bool)
        for crop in crops:
            x0, y0, x1, y1 = crop.box_xyxy
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            if crop.layer == layer:
                covered[y0:y1, x0:x1] = True
        assert covered.all()
        if min(height, width) >= 100:
            assert sum(crop.layer == layer for crop in crops) == 4**layer


def test_points_are_the_centres_of_their_cells_row_by_row():
    np.testing.assert_array_equal(point_grid(1), [[0.5, 0.5]])
    np.testing.assert_array_equal(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    assert point_grid(32).shape == (1024, 2)
    assert point_grid(32).min() == 1 / 64
    np.testing.assert_allclose(np.diff(point_grid(5)[:5, 0]), 0.2)


@pytest.mark.parametrize(
    ("box_xyxy", "touches"),
    [
        ((150, 60, 180, 90), False),
        ((122, 60, 180, 90), True),  # left side, inside the image
        ((123, 60, 180, 90), False),
        ((150, 2, 180, 90), False),  # the crop's top is the image's own
        ((150, 60, 199, 90), True),
        ((150, 60, 180, 98), True),
        ((150, 60, 180, 97), False),
    ],
)
def test_a_mask_touches_the_crops_inner_border(box_xyxy, touches):
    crop = Crop(1, (120, 0, 200, 100))
    assert touches_inner_border(box_xyxy, crop, (200, 300), 2) is touches


def test_the_whole_image_has_no_inner_border():
    assert not touches_inner_border((0, 0, 300, 200), Crop(0, (0, 0, 300, 200)), (200, 300), 20)


def test_a_crops_side_near_the_images_is_no_inner_border():
    crop = Crop(1, (0, 0, 290, 100))
    assert not touches_inner_border((100, 10, 289, 50), crop, (200, 300), 20)
    assert touches_inner_border((100, 10, 289, 50), crop, (200, 300), 5)
