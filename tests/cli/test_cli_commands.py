"""The command line's surface: every command is documented, and doctor and train do what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from anymask.cli.main import app
from anymask.cli.train import with_settings
from anymask.data.sa1b import write_sa1b
from anymask.errors import AnymaskError
from anymask.training.config import TrainConfig
from anymask.training.recipes import RECIPES

runner = CliRunner()


def commands(group: typer.Typer = app) -> list[list[str]]:
    """All command paths, such as ["models", "pull"]."""
    root = typer.main.get_command(group)
    paths = []
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        children = getattr(command, "commands", {})
        paths.extend([[name, child] for child in children] or [[name]])
    return paths


def test_the_commands_are_the_documented_ones() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    names = {path[0] for path in commands()}
    assert {"segment", "models", "doctor", "train", "evaluate", "dataset"} <= names
    for name in names - {"export-weights"}:
        assert f"anymask {name}" in readme, name


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_and_option_has_help(path: list[str]) -> None:
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path}: {parameter.name} has no help"
    assert runner.invoke(app, [*path, "--help"]).exit_code == 0


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).output.startswith("anymask ")


def test_doctor_tries_the_packaged_model() -> None:
    done = runner.invoke(app, ["doctor", "--json"])
    report = json.loads(done.output)
    assert done.exit_code == 0, report
    assert report["model"].startswith("answers")
    assert "cpu" in report["devices"]


def test_train_shows_the_recipe_with_changes(tmp_path: Path) -> None:
    changes = ["--set", "learning_rate=1e-4", "--set", "losses.dice=2", "--more", "taught", "--show"]
    done = runner.invoke(app, ["train", "tiny", "--data", str(tmp_path), *changes])
    shown = json.loads(done.output)
    assert shown["learning_rate"] == 1e-4
    assert shown["losses"]["dice"] == 2.0
    assert shown["sources"][-1]["folder"] == "taught"
    assert "taught" not in [source["folder"] for source in shown["validation_sources"]]


def test_teach_keeps_embeddings_and_goes_on(tmp_path: Path) -> None:
    for name, colour in (("one", 40), ("two", 200)):
        Image.new("RGB", (90, 60), (colour, 90, 90)).save(tmp_path / f"{name}.png")
    arguments = ["teach", str(tmp_path), "-o", str(tmp_path / "seen"), "--model", "tiny", "--device", "cpu"]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "seen").glob("*.npy")}
    assert len(kept) == 2
    assert [path.name for path in (tmp_path / "seen").glob("*.json")] == ["teacher.json"]
    write_sa1b(tmp_path / "one.json", "one.png", (60, 90), np.ones((1, 60, 90), dtype=bool))
    again = runner.invoke(app, arguments)
    assert again.output.splitlines()[-1] == f"2 pictures' embeddings in {tmp_path / 'seen'}"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "seen").glob("*.npy")} == kept
    assert len(list((tmp_path / "seen").glob("*.json"))) == 2  # and what it answered to a click on one.png's object
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with_broken = runner.invoke(app, arguments)
    assert with_broken.exit_code == 1
    assert "2 pictures' embeddings" in with_broken.output
    assert "broken.png" in with_broken.output
    (tmp_path / "two.json").write_text('{"image": {}, "annotations": []}')
    with_broken = runner.invoke(app, arguments)
    assert with_broken.exit_code == 1
    assert "2 pictures' embeddings" in with_broken.output  # two.png's too, though nobody can say what lies on it
    assert "two.json" in with_broken.output
    shown = runner.invoke(app, ["train", "tiny", "--data", "data", "--teacher", str(tmp_path / "seen"), "--show"])
    assert json.loads(shown.output)["teacher"] == str(tmp_path / "seen")


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("sam_")])
def test_the_paper_recipes_hold_the_papers_numbers(name: str) -> None:
    config = RECIPES[name](Path("data"))
    expected = {
        "sam_vit_b": (128, 180_000, 8e-4),
        "sam_vit_l": (128, 180_000, 4e-4),
        "sam_vit_h": (256, 90_000, 8e-4),
    }
    assert (config.images_per_step, config.total_steps, config.learning_rate) == expected[name]
    assert (config.schedule.rounds, config.masks_per_image, config.weight_decay) == (11, 64, 0.1)
    assert (config.losses.focal, config.losses.dice, config.losses.iou) == (20.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("learning_rate", "no '='"),
        ("speed=3", "'speed' is not a field"),
        ("learning_rate=fast", "takes float"),
        ("losses.magic=1", "'magic' is not a field"),
        ("crop_size.x=1", "no parts"),
    ],
)
def test_a_bad_setting_is_named(setting: str, told: str) -> None:
    config: TrainConfig = RECIPES["tiny"](Path("data"))
    with pytest.raises(AnymaskError, match=told):
        with_settings(config, [setting])
