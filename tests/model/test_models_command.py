"""`anymask models` for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from anymask.cli.models import app
from anymask.errors import CheckpointError
from anymask.model import zoo
from anymask.model.checkpoints import save_checkpoint
from anymask.model.pull import OFFICIAL, Official, sha256_of
from anymask.model.registry import BUILDERS, build_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of tiny in the package, an empty cache."""
    save_checkpoint(build_model("tiny"), tmp_path / "package" / "tiny.safetensors", {"steps": "7"})
    monkeypatch.setattr(zoo, "PACKAGED_FOLDER", tmp_path / "package")
    monkeypatch.setenv("ANYMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "cache"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_shows_every_model(cache: Path) -> None:
    lines = run("list").splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(BUILDERS)
    assert "93.7 M" in lines[2]
    assert "not here" in lines[2]
    assert "packaged" in lines[0]


def test_list_as_json(cache: Path) -> None:
    infos = json.loads(run("list", "--json"))
    assert [info["name"] for info in infos] == list(BUILDERS)
    assert infos[0]["weights"] == "packaged"
    assert infos[2]["download_megabytes"] == 375


def test_info_tells_size_origin_and_licence(cache: Path) -> None:
    text = " ".join(run("info", "tiny").split())
    for words in ("512 px", "packaged", "non-commercial", "CamVid (CC BY-NC)", "steps 7"):
        assert words in text
    assert "https://dl.fbaipublicfiles.com" in run("info", "vit_b")
    assert "speed" not in json.loads(run("info", "vit_b", "--json"))


@pytest.mark.parametrize("name", ["tiny", "conv"])
def test_speed_is_measured_with_and_without_weights(cache: Path, name: str) -> None:
    speed = json.loads(run("info", name, "--speed", "--device", "cpu", "--json"))["speed"]
    assert speed["device"] == "cpu"
    assert speed["threads"] == torch.get_num_threads()
    # Which of the two is slower is a matter of what else the machine does.
    assert all(0.1 < speed[name] < 60_000 for name in ("click_ms", "encode_ms"))


def test_pull_fetches_into_the_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.pth"
    source.write_bytes(b"weights" * 1000)
    official = Official(source.as_uri() + "/../sam_vit_b_01ec64.pth", sha256_of(source), 1)
    monkeypatch.setitem(OFFICIAL, "vit_b", official)
    path = cache / "sam_vit_b_01ec64.pth"
    answer = json.loads(run("pull", "vit_b", "--url", source.as_uri(), "--json"))
    assert answer == {"name": "vit_b", "path": str(path)}
    assert path.read_bytes() == source.read_bytes()
    assert run("pull", "vit_b", "--folder", str(tmp_path / "own"), "--url", source.as_uri()).strip() == str(
        tmp_path / "own" / "sam_vit_b_01ec64.pth"
    )
    assert json.loads(run("info", "vit_b", "--json"))["weights"] == "pulled"


def test_unknown_names_raise_what_the_command_line_prints(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="'vit_x' is not known"):
        run("info", "vit_x")
    with pytest.raises(CheckpointError, match="'tiny' cannot be pulled"):
        run("pull", "tiny")


def test_no_command_shows_help() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    for command in ("list", "info", "pull"):
        assert command in result.output
