import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anymask.errors import DataError
from anymask.geometry.regions import convex_hull_area, keep_largest, remove_small_regions

masks = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def grid(text):
    return np.array([[letter == "#" for letter in line] for line in text.split()])


def components(mask):
    """The 8-connected regions of a mask as sets of pixels, by flooding."""
    left, found = set(map(tuple, np.argwhere(mask))), []
    while left:
        front, region = [left.pop()], set()
        while front:
            row, column = front.pop()
            region.add((row, column))
            near = {(row + dy, column + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front.extend(near)
        found.append(region)
    return found


@given(masks, st.integers(0, 12))
def test_islands_under_the_limit_go_and_the_rest_stays(mask, min_area):
    before = mask.copy()
    cleaned, changed = remove_small_regions(mask, min_area, "islands")
    regions = components(mask)
    kept = [region for region in regions if len(region) >= min_area]
    if kept or not regions:
        assert set(map(tuple, np.argwhere(cleaned))) == set().union(*kept)
    else:
        assert components(cleaned)[0] in regions
        assert cleaned.sum() == max(map(len, regions))
    assert changed == (cleaned != mask).any()
    np.testing.assert_array_equal(mask, before)


@given(masks, st.integers(0, 12))
def test_holes_under_the_limit_are_filled(mask, min_area):
    filled, changed = remove_small_regions(mask, min_area, "holes")
    small = [region for region in components(~mask) if len(region) < min_area]
    assert set(map(tuple, np.argwhere(filled & ~mask))) == set().union(*small)
    assert not (mask & ~filled).any()
    assert changed == bool(small)


def test_a_worked_example():
    mask = grid("""
        ####..#
        #..#...
        ####..#
        .....##
    """)
    islands, changed = remove_small_regions(mask, 3, "islands")
    assert changed
    assert not islands[0, 6]
    assert islands[2:, 5:].sum() == 3
    holes, changed = remove_small_regions(mask, 3, "holes")
    assert changed
    assert holes[1, 1:3].all()
    assert holes.sum() == mask.sum() + 2


def test_an_unchanged_mask_comes_back_itself():
    for mask, mode in (
        (grid("##. .## ..."), "islands"),
        (np.zeros((3, 3), bool), "islands"),
        (grid("##"), "holes"),
    ):
        cleaned, changed = remove_small_regions(mask, 4, mode)
        assert cleaned is mask
        assert not changed


def test_whole_numbers_are_masks_too():
    cleaned, changed = remove_small_regions(grid("#.## ..##").astype(np.uint8) * 255, 2, "islands")
    assert cleaned.dtype == bool
    assert changed
    assert cleaned.sum() == 4


@given(masks)
def test_the_largest_region_alone_is_kept(mask):
    kept = keep_largest(mask)
    regions = components(mask)
    if not regions:
        assert not kept.any()
    else:
        assert set(map(tuple, np.argwhere(kept))) in regions
        assert kept.sum() == max(map(len, regions))


@given(masks)
def test_the_hull_holds_the_mask_and_lies_in_its_box(mask):
    area = convex_hull_area(mask)
    rows, columns = mask.any(axis=1), mask.any(axis=0)
    if not mask.any():
        assert area == 0
        return
    height, width = (np.ptp(np.flatnonzero(side)) + 1 for side in (rows, columns))
    assert mask.sum() <= area <= height * width
    assert convex_hull_area(mask.T) == area


def test_known_hulls():
    assert convex_hull_area(grid("#")) == 1
    assert convex_hull_area(grid("### ###")) == 6
    assert convex_hull_area(grid("#. .#")) == 3  # two squares corner to corner, and half a square either side
    assert convex_hull_area(grid("### #.. #..")) == 7  # the corner that is cut off has legs of 2


@pytest.mark.parametrize("bad", [np.zeros(4, bool), np.zeros((2, 2, 2), bool), np.zeros((0, 3), bool)])
def test_other_shapes_are_refused(bad):
    with pytest.raises(DataError, match="mask_hw"):
        keep_largest(bad)
    with pytest.raises(DataError, match="mask_hw"):
        remove_small_regions(bad, 1, "holes")


def test_another_mode_is_refused():
    with pytest.raises(DataError, match="'edges'"):
        remove_small_regions(np.ones((2, 2), bool), 1, "edges")


@pytest.fixture(scope="module")
def reference():
    """The reference's function, from its one file: the package around it asks for torchvision."""
    package = importlib.util.find_spec("segment_anything")
    if package is None or package.origin is None:
        pytest.skip("Meta's segment-anything is not installed")
    pytest.importorskip("torch")
    path = Path(package.origin).parent / "utils" / "amg.py"
    spec = importlib.util.spec_from_file_location("reference_amg", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module.remove_small_regions
    del sys.modules[spec.name]


@pytest.mark.parametrize("mode", ["holes", "islands"])
def test_the_reference_says_the_same(reference, rng, mode):
    for density in (0.1, 0.4, 0.6, 0.9):
        for min_area in (2, 5, 30):
            mask = rng.random((24, 31)) < density
            expected, expected_change = reference(mask, min_area, mode)
            found, changed = remove_small_regions(mask, min_area, mode)
            np.testing.assert_array_equal(found, expected)
            # The reference reports a change where all islands are small and there is only one.
            assert changed == bool(expected_change and (expected != mask).any())
