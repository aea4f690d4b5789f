import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anymask.errors import DataError
from anymask.geometry.masks import mask_iou
from anymask.geometry.polygons import (
    MIN_SIMPLIFIED_IOU,
    join_rings,
    mask_to_outlines,
    mask_to_polygons,
    outlines_to_mask,
    polygons_to_rle,
    simplify_ring,
)
from anymask.geometry.rle import decode_rle

masks = arrays(bool, st.tuples(st.integers(1, 10), st.integers(1, 10)))


def blob(rng, size_hw=(60, 80)):
    """A smooth random shape with holes and islands."""
    noise = cv2.GaussianBlur(rng.normal(size=size_hw), (0, 0), 4)
    return noise > 0.02


@given(masks)
def test_outlines_give_the_mask_back(mask):
    regions = mask_to_outlines(mask)
    np.testing.assert_array_equal(outlines_to_mask(regions, mask.shape), mask)
    assert len(regions) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1
    for ring in (ring for region in regions for ring in region):
        sides = np.abs(np.diff(ring, axis=0, append=ring[:1]))
        assert len(ring) >= 4
        assert (np.count_nonzero(sides, axis=1) == 1).all()  # along x or along y
        assert ((ring >= 0) & (ring <= mask.shape[::-1])).all()


@given(masks)
def test_one_joined_ring_holds_the_whole_mask(mask):
    rings = [ring for region in mask_to_outlines(mask) for ring in region]
    if rings:
        joined = decode_rle(polygons_to_rle([join_rings(rings)], mask.shape))
        np.testing.assert_array_equal(joined, mask)


@given(masks)
def test_outlines_without_their_holes_fill_them(mask):
    regions = mask_to_outlines(mask)
    outside = polygons_to_rle([region[0] for region in regions], mask.shape)
    holes = polygons_to_rle([ring for region in regions for ring in region[1:]], mask.shape)
    inside_holes = outlines_to_mask(regions, mask.shape) & decode_rle(holes)
    assert (decode_rle(outside) >= mask).all()
    # A region inside another's hole lies in that hole.
    np.testing.assert_array_equal(decode_rle(outside) & ~decode_rle(holes) | inside_holes, mask)


@given(masks)
def test_polygons_through_pixel_centres_give_the_mask_back(mask):
    rebuilt = np.zeros(mask.shape, dtype=np.uint8)
    for outline, *holes in mask_to_polygons(mask):
        region = cv2.fillPoly(np.zeros_like(rebuilt), [outline], 1)
        for hole in holes:
            inside = cv2.fillPoly(np.zeros_like(rebuilt), [hole], 1)
            inside = cv2.polylines(inside, [hole], True, 0)
            region[inside == 1] = 0
        rebuilt |= region
    np.testing.assert_array_equal(rebuilt == 1, mask)


def test_known_outlines():
    mask = np.zeros((4, 5), dtype=bool)
    mask[2, 3] = True
    (ring,) = mask_to_outlines(mask)[0]
    assert {tuple(corner) for corner in ring.tolist()} == {(3, 2), (4, 2), (4, 3), (3, 3)}
    mask[:] = True
    mask[1, 1] = False
    outline, hole = mask_to_outlines(mask)[0]
    assert {tuple(corner) for corner in outline.tolist()} == {(0, 0), (5, 0), (5, 4), (0, 4)}
    assert {tuple(corner) for corner in hole.tolist()} == {(1, 1), (2, 1), (2, 2), (1, 2)}
    assert mask_to_outlines(np.zeros((3, 3))) == []


@given(masks, st.sampled_from([0.5, 1.0, 3.0]))
def test_a_simplified_ring_covers_its_region(mask, tolerance):
    for outline, *_ in mask_to_outlines(mask):
        simple = simplify_ring(outline, tolerance)
        exact, rough = (decode_rle(polygons_to_rle([ring], mask.shape)) for ring in (outline, simple))
        assert len(simple) <= len(outline)
        assert mask_iou(exact, rough) >= MIN_SIMPLIFIED_IOU


def test_simplifying_saves_corners_of_smooth_shapes(rng):
    outlines = [region[0] for region in mask_to_outlines(blob(rng))]
    corners = [sum(len(simplify_ring(ring, tolerance)) for ring in outlines) for tolerance in (0, 1)]
    assert corners[1] < corners[0] / 2


def test_a_line_of_one_pixel_survives_any_tolerance():
    line = np.eye(30, dtype=bool)
    (outline,) = mask_to_outlines(line)[0]
    kept = decode_rle(polygons_to_rle([simplify_ring(outline, 2)], line.shape))
    assert mask_iou(kept, line) >= MIN_SIMPLIFIED_IOU


def test_polygons_too_thin_for_a_pixel_centre_become_their_line():
    line = decode_rle(polygons_to_rle([np.array([[1.0, 1.0], [3.0, 1.0], [3.0, 1.0]])], (3, 6)))
    assert np.argwhere(line).tolist() == [[1, 1], [1, 2], [1, 3]]
    corner = decode_rle(polygons_to_rle([np.full((3, 2), [6.0, 3.0])], (3, 6)))
    assert np.argwhere(corner).tolist() == [[2, 5]]
    outside = np.array([[7.0, 0], [8, 0], [8, 1]])
    assert not decode_rle(polygons_to_rle([outside], (3, 6))).any()


def test_several_rings_are_united_and_none_is_nothing():
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2]])
    assert decode_rle(polygons_to_rle([square, square + 1], (3, 4))).sum() == 7
    assert decode_rle(polygons_to_rle([], (3, 4))).shape == (3, 4)


@pytest.mark.parametrize(
    ("ring", "word"),
    [
        (np.zeros((2, 2)), "three corners"),
        (np.zeros((4, 3)), "three corners"),
        (np.array([[0, 0], [1, 0], [np.nan, 1]]), "leaves the image"),
        (np.array([[0, 0], [1, 0], [1e300, 1]]), "leaves the image"),
        (np.array([[0, 0], [1, 0], [0, -5]]), "y -5 to 0"),
    ],
)
def test_broken_rings_are_refused(ring, word):
    with pytest.raises(DataError, match=word):
        polygons_to_rle([ring], (4, 4))
