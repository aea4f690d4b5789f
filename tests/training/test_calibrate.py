"""Predicted IoU is fitted to what a finished model answers, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import small_config, write_scenes
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.errors import CheckpointError
from anymask.model.registry import build_model
from anymask.model.second_look import FARTHEST, SecondLook
from anymask.training.calibrate import KINDS, ROUNDS, calibrate_best, collect_answers, fit


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    state = build_model("tiny").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "best.safetensors")
    (folder / "best.json").write_text(json.dumps({"step": 7, "score": 0.5}))
    return folder


def test_a_fit_finds_what_the_evidence_says() -> None:
    """True IoU is the first guess, moved by how large a number of the evidence is; one number never changes."""
    generator = torch.Generator().manual_seed(0)
    second_look = SecondLook(8, 4)
    width = second_look.mlp.layers[0].in_features
    evidence = 5 + 3 * torch.randn(2_000, width, generator=generator)
    evidence[:, 3] = 1.0
    ious = torch.rand(2_000, 4, generator=generator)
    truth = ious + 0.1 * torch.tanh(evidence[:, :1] - 5)
    before = (ious - truth).abs().mean()
    fit(second_look, evidence, ious, truth)
    with torch.no_grad():
        after = (second_look.judge(ious, evidence) - truth).abs().mean()
    assert after < 0.25 * before


def test_a_second_look_does_not_go_far() -> None:
    second_look = SecondLook(8, 4)
    token, ious, logits = torch.randn(3, 8), torch.rand(3, 4), torch.randn(3, 4, 6, 5)
    assert torch.equal(second_look(token, ious, logits), ious)
    torch.nn.init.constant_(second_look.mlp.layers[-1].bias, 100.0)
    assert torch.allclose(second_look(token, ious, logits), ious + FARTHEST)


def test_evidence_is_agreement_and_size() -> None:
    logits = torch.full((1, 4, 2, 4), -1.0)
    logits[0, 0, 0] = 1  # four cells, of which the next mask has two, and the third none; the last is empty
    logits[0, 1, 0, :2] = 1
    logits[0, 2, 1] = 1
    evidence = SecondLook(0, 4).evidence(torch.zeros(1, 0), torch.zeros(1, 4), logits)
    sizes, agreement = evidence[0, 4:8], evidence[0, 8:].reshape(4, 4)
    assert torch.allclose(sizes.exp(), torch.tensor([5.0, 3.0, 5.0, 1.0]))
    expected = [[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert torch.equal(agreement, torch.tensor(expected, dtype=torch.float32))


def test_answers_of_all_rounds_are_collected(tmp_path: Path) -> None:
    config = small_config(write_scenes(tmp_path / "scenes"))
    model = build_model("tiny")
    told: list[int] = []
    evidence, ious, truth = collect_answers(model, config, 3, told.append)
    assert told == [1, 2, 3]
    assert (
        len(evidence) == len(ious) == len(truth) == 3 * 5 * KINDS * ROUNDS
    )  # five of a scene's six masks are not empty
    assert truth.min() >= 0
    assert truth.max() <= 1
    again = collect_answers(model, config, 3)
    assert all(torch.equal(one, other) for one, other in zip((evidence, ious, truth), again, strict=True))


def test_only_the_second_look_changes(run_folder: Path, tmp_path: Path) -> None:
    before = load_file(run_folder / "best.safetensors")
    config = small_config(write_scenes(tmp_path / "scenes"))
    scores = calibrate_best(run_folder, config, images=4)
    after = load_file(run_folder / "best.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("mask_decoder.second_look.") for name in changed)
    best = json.loads((run_folder / "best.json").read_text())
    assert best["step"] == 7
    assert best["iou_error"] == scores["iou_error"]
    assert not list(run_folder.glob("*.partial"))


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        calibrate_best(tmp_path, config, images=1)
    state = build_model("conv").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match="conv takes no second look"):
        calibrate_best(tmp_path, small_config(tmp_path, model="conv"), images=1)


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["calibrate", "huge", "--data", str(tmp_path)])
    assert result.exit_code != 0
    assert "recipe 'huge' is not known" in str(result.exception)
