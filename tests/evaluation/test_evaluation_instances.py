"""Instances: a detector's boxes and true ones, COCO's rules and LVIS's, one round of refinement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_scene import write_instances
from known_scene import FixedAnswer, Knowing, Scene
from typer.testing import CliRunner

from anymask.cli.evaluate import app
from anymask.errors import DataError
from anymask.evaluation.instance_scores import coco_scores, evaluate_instances, lvis_scores, score_instances
from anymask.evaluation.instances import Detections, InstanceSettings, TrueBoxes
from anymask.evaluation.truth import Category, TrueImage, TrueObject, TrueSet, open_truth
from anymask.geometry.rle import encode_rle, rle_area, rle_to_box_xywh
from anymask.prompts import Prompt


def the_truth(truth_hw: np.ndarray, is_multimask: bool) -> np.ndarray:
    return truth_hw[None]


def nothing(truth_hw: np.ndarray, is_multimask: bool) -> np.ndarray:
    return np.zeros((1, *truth_hw.shape), dtype=bool)


@pytest.mark.parametrize("is_lvis", [False, True])
@pytest.mark.parametrize(("answer", "score"), [(the_truth, 1.0), (nothing, 0.0)])
def test_all_knowing_scores_one_and_ignorance_nought(
    scene: Scene, tmp_path: Path, answer: Any, score: float, is_lvis: bool
) -> None:
    truth = open_truth(write_instances(scene, scene.folder.parent / "instances_test.json", is_lvis))
    results = evaluate_instances(scene.judge(answer), truth, TrueBoxes(), tmp_path / "out")
    assert results.rules == ("LVIS" if is_lvis else "COCO")
    assert results.instances == 8
    assert results.miou == {"first": score, "refined": score}
    for of_stage in results.scores.values():
        known = {measure: value for measure, value in of_stage.items() if measure != "APl"}
        assert np.isnan(of_stage["APl"])
        assert list(known.values()) == pytest.approx([score] * len(known))


def test_folders_in_sa1b_layout_are_one_class(scene: Scene, tmp_path: Path) -> None:
    results = evaluate_instances(scene.judge(the_truth), open_truth(scene.folder), TrueBoxes(), tmp_path / "out")
    assert results.scores["refined"]["AP"] == pytest.approx(1.0)


def test_the_best_mask_goes_back_once_with_the_box(scene: Scene, tmp_path: Path) -> None:
    class Improving(Knowing):
        """Knows the object only when it gets a mask back."""

        def _one(self, prompt: Prompt) -> FixedAnswer:
            first = super()._one(prompt)
            return first if prompt.mask_logits is not None else first._replace(masks=~first.masks)

    judged = Improving(the_truth)
    for image, masks in zip(scene.images, scene.masks, strict=True):
        judged.learn(image, masks)
    results = evaluate_instances(judged, open_truth(scene.folder), TrueBoxes(), tmp_path / "out")
    assert len(judged.batches) == 6  # two for each image
    first, second = judged.batches[:2]
    assert [prompt.box for prompt in second] == [prompt.box for prompt in first]
    assert [np.unique(prompt.mask_logits).tolist() for prompt in second] == [[1.0]] * 4  # those of the first batch
    assert results.miou["first"] < 0.1
    assert results.miou["refined"] == 1
    plain = evaluate_instances(
        judged, open_truth(scene.folder), TrueBoxes(), tmp_path / "plain", InstanceSettings(refine=False)
    )
    assert list(plain.scores) == ["first"]


def test_a_detectors_boxes_keep_their_class_and_score(scene: Scene, tmp_path: Path) -> None:
    path = write_instances(scene, scene.folder.parent / "instances_test.json")
    objects = json.loads(path.read_text())["annotations"]
    found = [
        {"image_id": thing["image_id"], "category_id": thing["category_id"], "bbox": thing["bbox"], "score": 0.5}
        for thing in objects
    ]
    found[0]["category_id"] = 5  # the first ellipse of one image of three is called something else
    found.append({**found[1], "bbox": [500, 500, 10, 10], "score": 0.9})  # outside the image: no mask
    detections = tmp_path / "boxes.json"
    detections.write_text(json.dumps(found))
    results = evaluate_instances(scene.judge(the_truth), open_truth(path), Detections(detections), tmp_path / "out")
    assert results.instances == 8
    assert results.miou == {}
    # Red: two of three are found, right ones alone: precision 1 up to recall 2/3, 67 of the 101 points. Blue: the
    # wrong one comes first among equals (it is in the first image), so that its precision is never above 2/3.
    assert results.scores["refined"]["AP"] == pytest.approx((67 / 101 + 2 / 3 + 1 + 1) / 4, abs=1e-9)
    written = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert {entry["score"] for entry in written} == {0.5}
    assert set(written[0]) == {"image_id", "category_id", "score", "bbox", "segmentation"}

    found[2]["score"] = 0.6
    detections.write_text(json.dumps(found))
    with pytest.raises(DataError, match="boxes was"):
        evaluate_instances(scene.judge(the_truth), open_truth(path), Detections(detections), tmp_path / "out")


def square(x: int) -> dict[str, Any]:
    """A 10x10 square at x in a 20x200 image."""
    mask = np.zeros((20, 200), dtype=bool)
    mask[5:15, x : x + 10] = True
    return encode_rle(mask)


def image_with(
    number: int, objects: Sequence[tuple[int, int]], neg: Sequence[int] = (), open_: Sequence[int] = ()
) -> TrueImage:
    things = []
    for x, category in objects:
        rle = square(x)
        things.append(TrueObject(rle, rle_area(rle), rle_to_box_xywh(rle), category))
    rules = (frozenset(neg), frozenset(open_))
    return TrueImage(f"{number}.png", None, (20, 200), number, tuple(things), "", *rules)


def found(x: int, category: int, score: float) -> dict[str, Any]:
    return {"segmentation": square(x), "category_id": category, "score": score}


class Nowhere:
    """No images: `Classes` is asked for its categories alone."""

    keys: list[int] = []  # noqa: RUF012, never written to

    def name(self, key: int) -> str:
        raise KeyError(key)

    def image(self, key: int) -> TrueImage:
        raise KeyError(key)


class Classes(TrueSet):
    """Two categories, one rare."""

    def __init__(self) -> None:
        super().__init__(Path("x"), None, Nowhere(), {1: Category("cup", "rare"), 2: Category("cat", "frequent")})


def test_lvis_by_hand() -> None:
    """Category 1 is checked in images 1 to 3, in image 3 not all of it is marked; image 4 was never checked."""
    images = [
        image_with(1, [(0, 1), (50, 1)]),
        image_with(2, [], neg=[1]),
        image_with(3, [(0, 1)], open_=[1]),
        image_with(4, [(0, 2)]),
    ]
    answers = {
        1: [found(0, 1, 0.9)],  # right
        2: [found(0, 1, 0.8)],  # wrong: known not to be there
        3: [found(100, 1, 0.85), found(0, 1, 0.7)],  # forgiven, then right
        4: [found(100, 1, 0.95), found(0, 2, 0.5)],  # not judged, then right
    }
    scores = lvis_scores(images, answers, Classes())
    # Right, wrong, right of three: precision 1 up to recall 1/3 (34 points), 2/3 up to recall 2/3 (33), then 0.
    rare = (34 * 1 + 33 * 2 / 3) / 101
    assert scores["APr"] == pytest.approx(rare)
    assert scores["APf"] == pytest.approx(1)
    assert np.isnan(scores["APc"])
    assert scores["AP"] == scores["AP50"] == scores["APs"] == pytest.approx((rare + 1) / 2)


def test_lvis_counts_the_best_300_of_all_categories() -> None:
    images = [image_with(1, [(0, 1)])]
    many = [found(100, 2, 0.9)] * 300
    assert lvis_scores(images, {1: [*many[1:], found(0, 1, 0.5)]}, Classes())["APr"] == pytest.approx(1)
    assert lvis_scores(images, {1: [*many, found(0, 1, 0.5)]}, Classes())["APr"] == 0


def test_both_rules_agree_where_they_say_the_same() -> None:
    """Every category checked everywhere and everything marked: LVIS's rules are COCO's."""
    rng = np.random.default_rng(5)
    images, answers = [], {}
    for number in range(1, 7):
        objects = [(int(x), int(rng.integers(1, 3))) for x in rng.integers(0, 190, 4)]
        images.append(image_with(number, objects, neg=[1, 2]))
        guesses = [(x + int(rng.integers(-4, 5)), category) for x, category in objects if rng.random() < 0.8]
        answers[number] = [found(int(np.clip(x, 0, 190)), category, float(rng.random())) for x, category in guesses]
    coco, lvis = coco_scores(images, answers), lvis_scores(images, answers, Classes())
    assert 0.1 < coco["AP"] < 0.9
    for measure, value in coco.items():
        np.testing.assert_allclose(lvis[measure], value, atol=1e-10, err_msg=measure)


def test_the_command_and_what_it_refuses(scene: Scene, tmp_path: Path) -> None:
    path = write_instances(scene, scene.folder.parent / "instances_test.json")
    options = ["-o", str(tmp_path / "out"), "--max-images", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, ["instances", str(path), *options], env={"COLUMNS": "140"})
    assert result.exit_code == 0, result.output
    for expected in ("APm", "mIoU", "ViTDet-H (paper)", "tiny, refined"):
        assert expected in result.stdout
    assert {"coco_results.json", "results.json", "results.md", "instances.png"} <= {
        file.name for file in (tmp_path / "out").iterdir()
    }
    assert score_instances(tmp_path / "out" / "predictions").images == 1
    broken = tmp_path / "broken.json"
    broken.write_text('[{"image_id": 1, "bbox": [1, 2, 3], "category_id": 1, "score": 1}]')
    result = CliRunner().invoke(app, ["instances", str(path), "--detections", str(broken), *options])
    assert "[0] is no detection" in str(result.exception)
    result = CliRunner().invoke(app, ["instances", str(scene.folder), "--detections", str(broken), *options])
    assert "has no categories" in str(result.exception)
