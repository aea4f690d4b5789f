"""From a run folder to a packaged weights file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import anymask
from anymask.errors import CheckpointError
from anymask.model.checkpoints import read_metadata
from anymask.model.registry import build_model
from anymask.training.export import export_best


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    save_file(
        {key: value.contiguous() for key, value in build_model("tiny").state_dict().items()},
        folder / "best.safetensors",
    )
    (folder / "config.json").write_text(json.dumps({"model": "tiny"}))
    (folder / "best.json").write_text(json.dumps({"step": 7, "score": 0.5}))
    return folder


def test_the_file_is_small_loads_and_carries_its_score(run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    assert "0.5000" in export_best(run_folder, file)
    assert file.stat().st_size <= 12_000_000
    assert float(read_metadata(file)["validation_score"]) == 0.5
    model = anymask.load_model("tiny", checkpoint=file, device="cpu")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_better_weights_are_not_replaced(run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    export_best(run_folder, file)
    before = file.read_bytes()
    (run_folder / "best.json").write_text(json.dumps({"step": 9, "score": 0.4}))
    assert "left" in export_best(run_folder, file)
    assert file.read_bytes() == before
    (run_folder / "best.json").write_text(json.dumps({"step": 11, "score": 0.6}))
    assert "wrote" in export_best(run_folder, file)


def test_a_run_without_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.json"):
        export_best(tmp_path, tmp_path / "tiny.safetensors")
