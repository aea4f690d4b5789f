"""From prediction files to scores: a model that knows everything, one that knows nothing, and reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from known_scene import Scene
from PIL import Image

from anymask.data.sa1b import write_sa1b
from anymask.errors import DataError
from anymask.evaluation.point_scores import PointResults, evaluate_points, score_points
from anymask.evaluation.points import PointSettings

Answer = Callable[[np.ndarray, bool], np.ndarray]


def the_truth(truth_hw: np.ndarray, is_multimask: bool) -> np.ndarray:
    return np.stack([truth_hw, ~truth_hw, truth_hw] if is_multimask else [truth_hw])


def nothing(truth_hw: np.ndarray, is_multimask: bool) -> np.ndarray:
    return np.zeros((3 if is_multimask else 1, *truth_hw.shape), dtype=bool)


def unsure(truth_hw: np.ndarray, is_multimask: bool) -> np.ndarray:
    """Nothing with most confidence and the truth with least, once there is a choice."""
    return np.stack([~truth_hw, ~truth_hw, truth_hw] if is_multimask else [truth_hw])


def judge(scene: Scene, answer: Answer, out: Path) -> PointResults:
    return evaluate_points(scene.judge(answer), [scene.folder], out, PointSettings(), {"name": "double"})


@pytest.mark.parametrize(("answer", "score"), [(the_truth, 1.0), (nothing, 0.0)])
def test_all_knowing_scores_one_and_ignorance_nought(
    scene: Scene, tmp_path: Path, answer: Answer, score: float
) -> None:
    results = judge(scene, answer, tmp_path / "out")
    assert list(results.mean) == ["1", "2", "3", "5", "9", "oracle", "box"]
    assert set(results.mean.values()) == {score}
    of_set = results.sets["shapes/test"]
    assert (of_set.images, of_set.objects) == (3, 8)
    assert set(of_set.miou.values()) == {score}


def test_the_oracle_may_choose_and_the_score_may_not(scene: Scene, tmp_path: Path) -> None:
    mean = judge(scene, unsure, tmp_path / "out").mean
    assert mean["1"] == 0
    assert mean["oracle"] == mean["2"] == mean["box"] == 1


def test_the_mean_is_over_objects_then_over_sets(scene: Scene, tmp_path: Path) -> None:
    other = tmp_path / "single" / "test"
    other.mkdir(parents=True)
    Image.fromarray(scene.images[2]).save(other / "c.png")
    write_sa1b(other / "c.json", "c.png", (120, 160), scene.masks[2])

    # Knows the first ellipse and no other: 3 of the 8 objects of one set, the only one of the other.
    known = {mask.tobytes() for mask in (scene.masks[0][0], scene.masks[1][0], scene.masks[2][0])}
    judged = scene.judge(
        lambda truth, is_multimask: (the_truth if truth.tobytes() in known else nothing)(truth, is_multimask)
    )
    settings = PointSettings(clicks=(1,), boxes=False)
    results = evaluate_points(judged, [scene.folder, other], tmp_path / "out", settings)
    assert results.sets["shapes/test"].miou["1"] == pytest.approx(3 / 8)
    assert results.sets["single/test"].miou["1"] == 1
    assert results.mean == {"1": pytest.approx(11 / 16), "oracle": pytest.approx(11 / 16)}


def test_reports_say_the_same_and_how_it_was_made(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = judge(scene, unsure, out)
    written = json.loads((out / "results.json").read_text())
    assert written == json.loads(json.dumps(results.to_json()))
    assert written["mean"]["oracle"] == 1
    assert written["model"] == {"name": "double"}
    page = (out / "results.md").read_text()
    assert "| set | images | objects | 1 | 2 | 3 | 5 | 9 | oracle | box |" in page
    assert "| shapes/test | 3 | 8 | 0.0 | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 |" in page
    assert "- feedback: True" in page
    with Image.open(out / "points.png") as picture:
        picture.load()
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_scoring_needs_the_files_alone(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = judge(scene, unsure, out)
    folder = out / "predictions" / "shapes" / "test"
    assert score_points(folder) == results.sets["shapes/test"]
    # Whoever wrote the file: the score is of what it holds.
    path = folder / "images" / "c.json"
    content = json.loads(path.read_text())
    answers = content["objects"][0]["clicks"]
    answers["2"] = answers["1"]
    path.write_text(json.dumps(content))
    assert score_points(folder).miou["2"] == pytest.approx(7 / 8)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not readable as JSON"),
        (lambda text: text.replace('"clicks"', '"klicks"'), "no file of point predictions"),
        (lambda text: text.replace('"index": 0', '"index": 70'), "no file of point predictions"),
        (lambda text: text.replace('"size": [120', '"size": [121'), "add up to"),
        (lambda text: "[]", "no file of point predictions"),
    ],
)
def test_a_broken_file_is_named(scene: Scene, tmp_path: Path, damage: Callable[[str], str], message: str) -> None:
    judge(scene, the_truth, tmp_path / "out")
    folder = tmp_path / "out" / "predictions" / "shapes" / "test"
    path = folder / "images" / "b.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=message) as caught:
        score_points(folder)
    assert str(path) in str(caught.value)


def test_a_missing_image_and_a_changed_truth_are_refused(scene: Scene, tmp_path: Path) -> None:
    judge(scene, the_truth, tmp_path / "out")
    folder = tmp_path / "out" / "predictions" / "shapes" / "test"
    write_sa1b(scene.folder / "a.json", "a.png", (120, 160), scene.masks[0][:2])
    with pytest.raises(DataError, match=r"a\.json: the truth of a\.png has changed since"):
        score_points(folder)
    (folder / "images" / "a.json").unlink()
    with pytest.raises(DataError, match=r"images/a\.json: no such file"):
        score_points(folder)


def test_sets_without_objects_or_of_one_name_are_refused(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its own name"):
        evaluate_points(scene.judge(the_truth), [scene.folder, scene.folder], tmp_path / "out")
    with pytest.raises(DataError, match="one or more"):
        evaluate_points(scene.judge(the_truth), [], tmp_path / "out")
    for name in scene.names:
        empty = np.zeros((1, 120, 160), dtype=bool)
        write_sa1b((scene.folder / name).with_suffix(".json"), name, (120, 160), empty)
    with pytest.raises(DataError, match="no objects to score"):
        judge(scene, the_truth, tmp_path / "out")


def test_a_click_may_correct_the_box(scene: Scene, tmp_path: Path) -> None:
    def knows_clicks(truth_hw: np.ndarray, is_multimask: bool) -> np.ndarray:
        asked = judged.batches[-1][0]
        return np.stack([truth_hw if asked.points is not None else ~truth_hw])

    judged = scene.judge(knows_clicks)
    settings = PointSettings(clicks=(1,), box_click=True)
    results = evaluate_points(judged, [scene.folder], tmp_path / "out", settings)
    assert results.mean == {"1": 1, "oracle": 1, "box": 0, "box+1": 1}
    correcting = judged.batches[2]
    assert len(correcting) == 4
    for prompt in correcting:
        assert prompt.box is not None
        assert prompt.mask_logits is not None
        assert prompt.labels == (0,)  # all that was answered is too much
    with pytest.raises(DataError, match="box_click"):
        PointSettings(boxes=False, box_click=True)


def test_intervals_are_those_of_means_over_images(scene: Scene, tmp_path: Path) -> None:
    known = {mask.tobytes() for mask in scene.masks[0]}
    judged = scene.judge(lambda truth, is_multi: (the_truth if truth.tobytes() in known else nothing)(truth, is_multi))
    results = evaluate_points(judged, [scene.folder], tmp_path / "out", PointSettings(clicks=(1,), boxes=False))
    of_set = results.sets["shapes/test"]
    assert of_set.miou["1"] == 0.5  # all four of the first image, none of the other two's
    assert of_set.intervals["1"] == (0.0, 1.0)
    assert "| shapes/test | 0.0 to 100.0 | 0.0 to 100.0 |" in (tmp_path / "out" / "results.md").read_text()
    single = evaluate_points(
        judged, [scene.folder], tmp_path / "single", PointSettings(clicks=(1,), boxes=False, max_images=1)
    )
    assert single.sets["shapes/test"].intervals == {"1": None, "oracle": None}
