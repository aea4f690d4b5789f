"""The baseline without learned weights: regions under clicks, filled boxes, its place in the experiment."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from known_scene import Scene

from anymask.errors import AnymaskError, PromptError
from anymask.evaluation.baseline import RegionBaseline, clicked_regions, filled_box
from anymask.evaluation.point_scores import evaluate_points
from anymask.evaluation.points import PointSettings
from anymask.geometry.masks import mask_iou
from anymask.geometry.points import mask_centre_xy
from anymask.prompts import Prompt

REGIONS = np.array(
    [
        [0, 0, 0, 1, 1],
        [0, 0, 0, 1, 1],
        [2, 2, 2, 2, 2],
    ]
)


def test_clicks_take_the_regions_under_them() -> None:
    both = clicked_regions(REGIONS, np.array([[0.0, 0], [4.9, 2.9]]), np.array([1, 1]))
    np.testing.assert_array_equal(both, REGIONS != 1)
    without = clicked_regions(REGIONS, np.array([[0.0, 0], [4, 2]]), np.array([1, 0]))
    np.testing.assert_array_equal(without, REGIONS == 0)
    assert not clicked_regions(REGIONS, np.array([[0.0, 0]]), np.array([0])).any()


def test_a_region_with_both_kinds_goes_to_the_nearest_click_in_it() -> None:
    # The foreground click at (3, 1) is nearer to the middle of the lowest region, but lies in another.
    mask = clicked_regions(REGIONS, np.array([[0.0, 2], [4, 2], [3, 1]]), np.array([1, 0, 1]))
    np.testing.assert_array_equal(mask, [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [1, 1, 1, 0, 0]])


def test_a_box_is_filled_with_every_pixel_it_touches() -> None:
    expected = np.zeros((3, 5), dtype=bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(filled_box(np.array([2.5, 1, 9, 2.2]), (3, 5)), expected)
    np.testing.assert_array_equal(filled_box(np.array([-3, -2, 5, 3]), (3, 5)), np.ones((3, 5)))


def test_it_finds_what_differs_in_colour(photo: tuple[np.ndarray, np.ndarray]) -> None:
    image, masks_khw = photo
    baseline = RegionBaseline()
    baseline.set_image(image)
    answers = baseline.predict_batch([Prompt(points=[mask_centre_xy(mask)]) for mask in masks_khw])
    for answer, truth in zip(answers, masks_khw, strict=True):
        assert answer.masks.shape == (3, *truth.shape)
        assert answer.masks.dtype == bool
        assert (np.diff(answer.scores) < 0).all()
        assert max(mask_iou(mask, truth) for mask in answer.masks) > 0.8
        assert answer.logits.dtype == np.float32
        assert np.array_equal(answer.logits > 0, answer.masks)


def test_how_many_masks_it_gives(photo: tuple[np.ndarray, np.ndarray]) -> None:
    baseline = RegionBaseline()
    baseline.set_image(photo[0])
    prompts = [
        Prompt(points=[[40, 35]], multimask=False),
        Prompt(points=[[40, 35], [5, 5]], labels=[1, 0]),
        Prompt(points=[[40, 35], [5, 5]], labels=[1, 0], multimask=True),
        Prompt(box=[10, 10, 60, 60]),
    ]
    assert [len(answer.masks) for answer in baseline.predict_batch(prompts)] == [1, 1, 3, 1]


def test_a_large_image_is_answered_at_its_own_size() -> None:
    image = np.zeros((700, 1100, 3), dtype=np.uint8)
    image[200:500, 300:900] = 200
    baseline = RegionBaseline()
    baseline.set_image(image)
    (answer,) = baseline.predict_batch([Prompt(points=[[600, 350]])])
    assert answer.masks.shape == (3, 700, 1100)
    assert mask_iou(answer.masks[0], image[..., 0] > 0) > 0.9
    assert max(answer.logits.shape) <= 256


def test_it_takes_part_like_a_model(scene: Scene, tmp_path: Path) -> None:
    baseline = RegionBaseline()
    results = evaluate_points(baseline, [scene.folder], tmp_path / "out", PointSettings(clicks=(1, 3)))
    boxes = np.mean([mask.sum() / filled_area(mask) for masks in scene.masks for mask in masks])
    assert results.mean["box"] == pytest.approx(boxes)
    assert results.mean["oracle"] > 0.8
    assert results.mean["oracle"] >= results.mean["1"]
    assert results.model["name"] == "baseline"


def filled_area(mask_hw: np.ndarray) -> int:
    rows, columns = np.flatnonzero(mask_hw.any(axis=1)), np.flatnonzero(mask_hw.any(axis=0))
    return int((rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1))


def test_what_it_cannot_answer() -> None:
    baseline = RegionBaseline()
    with pytest.raises(PromptError, match="set_image"):
        baseline.predict_batch([Prompt(points=[[1, 1]])])
    baseline.set_image(np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(PromptError, match="neither points nor a box"):
        baseline.predict_batch([Prompt(mask=np.ones((8, 8)))])


def test_without_scikit_image_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(AnymaskError, match=r"anymask\[eval\]"):
        RegionBaseline()
