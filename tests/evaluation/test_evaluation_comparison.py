"""One model's lead over another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from known_scene import Scene
from PIL import Image

from anymask.errors import DataError
from anymask.evaluation.comparison import compare_points
from anymask.evaluation.point_scores import evaluate_points
from anymask.evaluation.points import PointSettings


def judge(scene: Scene, out: Path, known: int, **settings: object) -> None:
    """A model that knows the first `known` objects of each image and nothing of the others."""
    codes = {mask.tobytes() for masks in scene.masks for mask in masks[:known]}

    def answer(truth_hw: np.ndarray, is_multimask: bool) -> np.ndarray:
        found = truth_hw if truth_hw.tobytes() in codes else np.zeros_like(truth_hw)
        return np.stack([found] * (3 if is_multimask else 1))

    chosen = PointSettings(clicks=(1,), **settings)  # type: ignore[arg-type]
    evaluate_points(scene.judge(answer), [scene.folder], out, chosen, {"name": f"knows {known}"})


def test_the_lead_is_object_by_object(scene: Scene, tmp_path: Path) -> None:
    judge(scene, tmp_path / "a", 2)
    judge(scene, tmp_path / "b", 1)
    comparison = compare_points(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    of_set = comparison.sets["shapes/test"]
    # Of 4, 3 and 1 objects one knows 2, 2 and 1, the other one each.
    assert (of_set.objects, of_set.first, of_set.second) == (8, 5 / 8, 3 / 8)
    assert of_set.lead == comparison.mean_lead == pytest.approx(2 / 8)
    assert of_set.interval is not None
    assert of_set.interval[0] == 0  # only the image with one object, again and again
    assert of_set.interval[1] <= 1 / 3 + 1e-9
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert "| shapes/test | 8 | 62.5 | 37.5 | +25.0 |" in page
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["mean_lead"] == pytest.approx(0.25)
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10
    back = compare_points(tmp_path / "b", tmp_path / "a", tmp_path / "back", "box")
    assert back.mean_lead == pytest.approx(-0.25)


def test_only_objects_that_both_were_asked_for_count(scene: Scene, tmp_path: Path) -> None:
    judge(scene, tmp_path / "a", 9)
    judge(scene, tmp_path / "b", 0, max_objects=1)
    assert compare_points(tmp_path / "a", tmp_path / "b", tmp_path / "out").sets["shapes/test"].objects == 3


def test_what_cannot_be_compared_is_refused(scene: Scene, tmp_path: Path) -> None:
    judge(scene, tmp_path / "a", 1, boxes=False)
    with pytest.raises(DataError, match="has no measure 'box'"):
        compare_points(tmp_path / "a", tmp_path / "a", tmp_path / "out", "box")
    with pytest.raises(DataError, match="no such file"):
        compare_points(tmp_path / "a", tmp_path / "none", tmp_path / "out")
    content = json.loads((tmp_path / "a" / "results.json").read_text())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results.json").write_text(json.dumps(content | {"sets": {"other": {}}}))
    with pytest.raises(DataError, match="no set in common"):
        compare_points(tmp_path / "a", tmp_path / "b", tmp_path / "out")
