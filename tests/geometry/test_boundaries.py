"""Boundaries of label maps, thinning, ridges."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anymask.errors import DataError
from anymask.geometry.boundaries import label_boundaries, ridges, thin

sides = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(arrays(bool, sides))
def test_thinning_is_scikit_images(mask: np.ndarray) -> None:
    morphology = pytest.importorskip("skimage.morphology")
    np.testing.assert_array_equal(thin(mask), morphology.thin(mask))


def test_thinning_of_large_shapes_is_scikit_images(rng: np.random.Generator) -> None:
    morphology = pytest.importorskip("skimage.morphology")
    noise = cv2.GaussianBlur(rng.random((90, 130)).astype(np.float32), (0, 0), 2)
    for level in (0.48, 0.5, 0.52):
        np.testing.assert_array_equal(thin(noise > level), morphology.thin(noise > level))


def test_a_bar_becomes_a_line() -> None:
    bar = np.zeros((7, 20), dtype=bool)
    bar[2:5, 2:18] = True
    line = thin(bar)
    assert line[3].sum() >= 12
    assert line.sum() == line[3].sum()
    np.testing.assert_array_equal(thin(line), line)


def test_boundaries_lie_on_the_north_western_side() -> None:
    labels = np.zeros((4, 6), dtype=np.uint16)
    labels[:, 3:] = 7
    expected = np.zeros((4, 6), dtype=bool)
    expected[:, 2] = True
    np.testing.assert_array_equal(label_boundaries(labels), expected)
    np.testing.assert_array_equal(label_boundaries(labels.T), expected.T)
    assert not label_boundaries(np.full((3, 3), 5)).any()


def test_what_is_no_label_map_is_refused() -> None:
    with pytest.raises(DataError, match="labels_hw is float64"):
        label_boundaries(np.zeros((3, 3)))
    with pytest.raises(DataError, match="mask_hw has shape"):
        thin(np.zeros((3, 3, 3)))


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90, 135, 160])
def test_the_crest_of_a_ridge_stays_and_its_slopes_go(degrees: float) -> None:
    rows, columns = np.indices((61, 61)) - 30.0
    angle = np.deg2rad(degrees)
    distance = np.abs(columns * np.sin(angle) - rows * np.cos(angle))
    kept = ridges(np.exp(-((distance / 2) ** 2)), sigma=1.5)
    inner = (slice(8, -8), slice(8, -8))
    assert distance[inner][kept[inner] > 0].max() < 1.0
    assert (kept[inner] > 0).sum() >= 45  # no gaps: the line crosses 45 rows or columns
    assert kept[inner].max() <= 1


@pytest.mark.shared
def test_bsds_boundaries_are_those_of_its_segmentations(shared_data: Path) -> None:
    from anymask.data.bsds import read_bsds_truth

    for path in sorted((shared_data / "bsds500" / "groundTruth" / "test").glob("*.mat"))[:8]:
        for annotation in read_bsds_truth(path):
            np.testing.assert_array_equal(label_boundaries(annotation.labels_hw), annotation.boundary_hw)
