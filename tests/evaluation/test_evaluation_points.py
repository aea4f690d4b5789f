"""The clicking: what a model is asked, in which order, and what is written of its answers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_scene import Scene

from anymask.data.sa1b import read_sample, write_sa1b
from anymask.errors import DataError
from anymask.evaluation.points import PointSettings, export_points, predict_image, set_name
from anymask.geometry.points import mask_centre_xy, next_click
from anymask.geometry.rle import decode_rle


def the_truth(truth_hw: np.ndarray, is_multimask: bool) -> np.ndarray:
    return np.stack([truth_hw] * (3 if is_multimask else 1))


def left_half(truth_hw: np.ndarray, is_multimask: bool) -> np.ndarray:
    """Most confident of the half left of the object's middle; the second of three masks is the truth."""
    columns = np.flatnonzero(truth_hw.any(axis=0))
    half = truth_hw.copy()
    half[:, (columns[0] + columns[-1]) // 2 :] = False
    return np.stack([half, truth_hw, ~truth_hw] if is_multimask else [half])


def objects_of(scene: Scene, answer: Any, **settings: Any) -> list[dict[str, Any]]:
    sample = read_sample(scene.folder / "a.png")
    return predict_image(scene.judge(answer), sample, PointSettings(**settings))["objects"]


def test_an_image_is_looked_at_once_and_asked_about_all_objects_at_once(scene: Scene) -> None:
    judged = scene.judge(the_truth)
    predict_image(judged, read_sample(scene.folder / "a.png"), PointSettings())
    assert judged.images_seen == [scene.images[0].tobytes()]
    assert [len(batch) for batch in judged.batches] == [4] * 10  # nine rounds of clicks and the boxes
    assert [len(batch[0].points) for batch in judged.batches[:9]] == list(range(1, 10))
    boxes = [prompt.box for prompt in judged.batches[9]]
    for box, mask in zip(boxes, scene.masks[0], strict=True):
        inside = np.zeros_like(mask)
        x0, y0, x1, y1 = map(int, box)
        inside[y0:y1, x0:x1] = True
        assert (mask & ~inside).sum() == 0
        assert mask[y0].any()
        assert mask[y1 - 1].any()
        assert mask[:, x0].any()
        assert mask[:, x1 - 1].any()


def test_only_a_single_click_asks_for_several_masks(scene: Scene) -> None:
    judged = scene.judge(the_truth)
    predict_image(judged, read_sample(scene.folder / "a.png"), PointSettings(clicks=(1, 3)))
    assert [batch[0].multimask for batch in judged.batches] == [True, None, None, None]
    objects = objects_of(scene, the_truth, clicks=(1, 3))
    assert [len(answer) for answer in objects[0]["clicks"].values()] == [3, 1]


@pytest.mark.parametrize("feedback", [True, False])
def test_feedback_gives_back_the_logits_of_the_answer_before(scene: Scene, feedback: bool) -> None:
    judged = scene.judge(left_half)
    settings = PointSettings(clicks=(3,), feedback=feedback, boxes=False)
    predict_image(judged, read_sample(scene.folder / "a.png"), settings)
    given = [batch[0].mask_logits for batch in judged.batches]
    assert given[0] is None
    if feedback:
        # The double's logits are the number of the round that they were made in.
        assert [float(logits.mean()) for logits in given[1:]] == [1, 2]
        assert given[1].shape == (1, 4, 4)
    else:
        assert given[1:] == [None, None]


def test_clicks_begin_at_the_centre_and_correct_the_most_confident_mask(scene: Scene) -> None:
    for entry, truth in zip(objects_of(scene, left_half), scene.masks[0], strict=True):
        assert tuple(entry["points_xy"][0]) == mask_centre_xy(truth)
        expected, label = next_click(truth, left_half(truth, True)[0])
        assert tuple(entry["points_xy"][1]) == expected
        assert label == 1
        assert entry["labels"] == [1] * 9
        x, y = map(int, entry["points_xy"][1])
        assert truth[y, x]
        assert not left_half(truth, True)[0][y, x]
        assert np.array_equal(decode_rle(entry["clicks"]["1"][0]["rle"]), left_half(truth, True)[0])
        assert [answer["score"] for answer in entry["clicks"]["1"]] == pytest.approx([0.9, 0.7, 0.5])


def test_too_much_is_corrected_with_a_background_click(scene: Scene) -> None:
    for entry, truth in zip(objects_of(scene, lambda truth, _: np.ones_like(truth)[None]), scene.masks[0], strict=True):
        assert entry["labels"] == [1] + [0] * 8
        x, y = map(int, entry["points_xy"][1])
        assert not truth[y, x]


def test_only_the_first_click_is_random_and_it_depends_on_the_object_alone(scene: Scene) -> None:
    random = objects_of(scene, left_half, first_point="random")
    assert random == objects_of(scene, left_half, first_point="random")
    firsts = [tuple(entry["points_xy"][0]) for entry in random]
    for (x, y), truth in zip(firsts, scene.masks[0], strict=True):
        assert truth[int(y), int(x)]
    assert firsts != [mask_centre_xy(truth) for truth in scene.masks[0]]
    assert firsts != [
        tuple(entry["points_xy"][0]) for entry in objects_of(scene, left_half, first_point="random", seed=1)
    ]
    for entry, truth in zip(random, scene.masks[0], strict=True):
        assert tuple(entry["points_xy"][1]) == next_click(truth, left_half(truth, True)[0])[0]
    fewer = objects_of(scene, left_half, first_point="random", max_objects=2)
    assert [entry["index"] for entry in fewer] == [0, 3]
    assert fewer == [random[0], random[3]]


def test_an_empty_mask_is_no_object(scene: Scene) -> None:
    nothing = np.zeros((2, 120, 160), dtype=bool)
    masks = np.concatenate([nothing[:1], scene.masks[2], nothing[:1]])
    write_sa1b(scene.folder / "c.json", "c.png", (120, 160), masks)
    write_sa1b(scene.folder / "b.json", "b.png", (120, 160), nothing)
    judged = scene.judge(the_truth)
    settings = PointSettings()
    objects = predict_image(judged, read_sample(scene.folder / "c.png"), settings)["objects"]
    assert [entry["index"] for entry in objects] == [1]
    seen = len(judged.images_seen)
    assert predict_image(judged, read_sample(scene.folder / "b.png"), settings)["objects"] == []
    assert len(judged.images_seen) == seen


def test_a_killed_run_goes_on_where_it_stopped(scene: Scene, tmp_path: Path) -> None:
    settings, out = PointSettings(clicks=(1, 2)), tmp_path / "out"
    whole = export_points(scene.judge(left_half), scene.folder, tmp_path / "whole", settings, {"name": "half"})

    def killed_at_c(truth_hw: np.ndarray, is_multimask: bool) -> np.ndarray:
        if judged.images_seen[-1] == scene.images[2].tobytes():
            raise KeyboardInterrupt
        return left_half(truth_hw, is_multimask)

    judged = scene.judge(killed_at_c)
    with pytest.raises(KeyboardInterrupt):
        export_points(judged, scene.folder, out, settings, {"name": "half"})
    assert sorted(path.name for path in (out / "images").iterdir()) == ["a.json", "b.json"]

    progress: list[tuple[str, int, int]] = []
    judged = scene.judge(left_half)
    again = export_points(judged, scene.folder, out, settings, {"name": "half"}, lambda *step: progress.append(step))
    assert judged.images_seen == [scene.images[2].tobytes()]
    assert progress == [("shapes/test", done, 3) for done in (2, 3)]  # two were there
    assert [again.read(name) for name in scene.names] == [whole.read(name) for name in scene.names]
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "images"]


def test_another_model_or_setting_is_refused(scene: Scene, tmp_path: Path) -> None:
    settings = PointSettings(clicks=(1,), max_images=1)
    export_points(scene.judge(the_truth), scene.folder, tmp_path / "out", settings, {"fingerprint": "a"})
    judged = scene.judge(the_truth)
    with pytest.raises(DataError, match=r"model\.fingerprint was 'a', now 'b'; settings\.feedback was True"):
        export_points(
            judged,
            scene.folder,
            tmp_path / "out",
            dataclasses.replace(settings, feedback=False),
            {"fingerprint": "b"},
        )
    assert judged.images_seen == []
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["data"] == str(scene.folder)
    assert config["settings"]["max_images"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"clicks": ()},
        {"clicks": (0, 1)},
        {"clicks": (2, 1)},
        {"clicks": (1, 1)},
        {"first_point": "middle"},
        {"max_images": 0},
        {"max_objects": -1},
        {"seed": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        PointSettings(**wrong)


def test_a_set_is_named_by_the_end_of_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set_name("/data/bsds500/test") == "bsds500/test"
    assert set_name("/data/bsds500/test/") == "bsds500/test"
    assert set_name("/pets") == "pets"
    monkeypatch.chdir(tmp_path)
    assert set_name("test") == f"{tmp_path.name}/test"
