"""`anymask evaluate points` as a person or a script calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from known_scene import Scene
from typer.testing import CliRunner, Result

from anymask.cli.evaluate import app
from anymask.errors import DataError
from anymask.model.checkpoints import save_checkpoint
from anymask.model.registry import build_model


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "160"})


def run(*arguments: object) -> Result:
    return call("points", *arguments)


def test_the_table_and_the_files(scene: Scene, tmp_path: Path) -> None:
    result = run(scene.folder, "--baseline", "--clicks", "1,2", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for expected in ("shapes/test", "mean over sets", "by number of clicks", "oracle", "box"):
        assert expected in result.stdout
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"predictions", "points.png", "results.json", "results.md"}


def test_json_is_the_results_and_nothing_else(scene: Scene, tmp_path: Path) -> None:
    options = ("--baseline", "--clicks", "2,3", "--no-boxes", "--first-point", "random", "--seed", 3)
    limits = ("--max-images", 2, "--max-objects", 2)
    result = run(scene.folder, *options, *limits, "--json", "-o", tmp_path / "out")
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(printed["mean"]) == ["2", "3"]
    assert printed["settings"] == {
        "clicks": [2, 3],
        "first_point": "random",
        "boxes": False,
        "box_click": False,
        "feedback": False,
        "max_images": 2,
        "max_objects": 2,
        "seed": 3,
    }
    assert printed["sets"]["shapes/test"]["images"] == 2
    assert printed["sets"]["shapes/test"]["objects"] == 3  # two of the first image's four, the last one's only


def test_another_setting_in_the_same_folder_is_an_error_that_names_it(scene: Scene, tmp_path: Path) -> None:
    assert run(scene.folder, "--baseline", "--clicks", "1", "-o", tmp_path / "out").exit_code == 0
    result = run(scene.folder, "--baseline", "--clicks", "1,2", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert isinstance(result.exception, DataError)
    assert "settings.clicks was [1], now [1, 2]" in str(result.exception)


def test_two_results_are_compared(scene: Scene, tmp_path: Path) -> None:
    for name, first in (("one", "centre"), ("two", "random")):
        options = ("--baseline", "--clicks", "1,2", "--first-point", first, "-o", tmp_path / name)
        assert run(scene.folder, *options).exit_code == 0
    result = call("compare", tmp_path / "one", tmp_path / "two", "--measure", 2, "-o", tmp_path / "both", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sets"]["shapes/test"]["objects"] == 8
    assert {path.name for path in (tmp_path / "both").iterdir()} == {
        "comparison.json",
        "comparison.md",
        "comparison.png",
    }


def test_the_list_names_experiments_the_papers_sets_and_what_is_here(scene: Scene, tmp_path: Path) -> None:
    root = scene.folder.parent.parent
    (root / "TrashCan").mkdir()
    listed = json.loads(call("list", "--data", root, "--json").stdout)
    assert len(listed["sets"]) == 23
    assert {entry["id"]: entry["path"] for entry in listed["sets"] if entry["path"]} == {
        "trashcan": str(root / "TrashCan")
    }
    assert listed["others"] == [str(scene.folder)]
    registered = {command.name for command in app.registered_commands} - {"list"}
    assert registered == set(listed["experiments"])
    for expected in ("BBBC038v1", "proposals", "cityscapes-dataset.com"):
        assert expected in call("list").stdout
    assert "Other sets" in call("list", "--data", root).stdout
    assert isinstance(call("list", "--data", root / "none").exception, DataError)


def test_a_network_is_judged_and_known_by_its_weights(scene: Scene, tmp_path: Path) -> None:
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        save_checkpoint(build_model("tiny"), path)
    options = (
        "--model",
        "tiny",
        "--device",
        "cpu",
        "--clicks",
        "1,2",
        "--max-images",
        1,
        "-o",
        tmp_path / "out",
    )
    result = run(scene.folder, *options, "--checkpoint", paths[0], "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["settings"]["feedback"] is True
    assert printed["model"]["name"] == "tiny"
    assert 0 <= printed["mean"]["1"] <= printed["mean"]["oracle"] < 1

    other = run(scene.folder, *options, "--checkpoint", paths[1])
    assert isinstance(other.exception, DataError)
    assert "model.fingerprint was" in str(other.exception)


@pytest.mark.parametrize(
    "options", [("--clicks", "1;2"), ("--max-images", "0"), ("--checkpoint", "weights.safetensors")]
)
def test_wrong_usage_ends_with_two(scene: Scene, tmp_path: Path, options: tuple[str, str]) -> None:
    result = run(scene.folder, "--baseline", *options, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
