import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anymask.geometry.boxes import masks_to_boxes_xyxy
from anymask.geometry.rle import encode_rle
from anymask.geometry.runs import Runs


@st.composite
def masks_with_windows(draw):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    window = (x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))
    return np.array(bits).reshape(height, width), window


def runs_of(mask: np.ndarray) -> Runs:
    return Runs.of_columns(mask.T, (0, 0), mask.shape)


@given(masks_with_windows())
def test_a_part_knows_the_mask_inside_it(case):
    mask, (x0, y0, x1, y1) = case
    inside = np.zeros_like(mask)
    inside[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    runs = Runs.of_columns(mask[y0:y1, x0:x1].T, (x0, y0), mask.shape)
    assert runs.rle == encode_rle(inside)
    assert runs.area == inside.sum()
    np.testing.assert_array_equal(runs.box_xyxy, masks_to_boxes_xyxy(inside[None])[0])


@given(masks_with_windows())
def test_a_crop_finds_its_place(case):
    mask, (x0, y0, x1, y1) = case
    inside = np.zeros_like(mask)
    inside[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    assert runs_of(mask[y0:y1, x0:x1]).placed((x0, y0), mask.shape).rle == encode_rle(inside)


@given(st.data(), st.integers(1, 9), st.integers(1, 9))
def test_what_two_masks_have_in_common(data, height, width):
    bits = st.lists(st.booleans(), min_size=height * width, max_size=height * width)
    one, other = (np.array(data.draw(bits)).reshape(height, width) for _ in range(2))
    common = runs_of(one).cut_to(runs_of(other))
    assert common.rle == encode_rle(one & other)
    assert common.area == (one & other).sum()
