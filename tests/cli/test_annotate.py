"""`anymask annotate` on the command line: its surface, its statistics and its exports; serving is tested elsewhere."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="needs anymask[server]")

from anymask.cli.main import app
from anymask.data.formats import read_dataset
from anymask.errors import AnymaskError
from anymask.geometry.rle import encode_rle
from anymask.server.masks import create_annotation, find_image
from anymask.server.scan import scan_folder
from anymask.server.schemas import AnnotationIn
from anymask.server.store import Store

runner = CliRunner()


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """A folder of two pictures, one of them with an accepted mask."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((20, 30, 3), 90, dtype=np.uint8)).save(folder / name)
    store = Store(Store.in_folder(folder))
    assert scan_folder(store, folder) == []
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:10, 5:15] = True
    new = AnnotationIn.model_validate(
        {"id": uuid.uuid4(), "segmentation": encode_rle(mask), "duration_s": 12, "category": "cat"}
    )
    with store.writing() as session:
        create_annotation(session, find_image(session, 1), "anna", new)
    store.close()
    return folder


def test_statistics_as_table_json_and_plot(annotated: Path, tmp_path: Path) -> None:
    out = tmp_path / "stats"
    shown = runner.invoke(app, ["annotate", "stats", str(annotated), "-o", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "anna" in shown.output
    assert "12.0" in shown.output
    assert {path.name for path in out.iterdir()} == {"annotation.png", "annotation.json"}
    facts = json.loads(runner.invoke(app, ["annotate", "stats", str(annotated), "--json"]).output)
    assert facts["total"]["masks"] == 1
    assert facts == json.loads((out / "annotation.json").read_text())


@pytest.mark.parametrize("format_name", ["sa1b", "coco", "png"])
def test_export_in_any_format(annotated: Path, tmp_path: Path, format_name: str) -> None:
    out = tmp_path / "out"
    command = ["annotate", "export", str(annotated), "-o", str(out), "--to", format_name]
    done = runner.invoke(app, [*command, "--overlays"])
    assert done.exit_code == 0, done.output
    assert "1 masks on 1 images" in done.output
    [image] = read_dataset(out, format_name)
    assert image.records[0].area == 50
    assert image.records[0].category == "cat"
    assert (out / "overlays" / "a.jpg").is_file()
    assert isinstance(runner.invoke(app, command).exception, AnymaskError), "a folder that holds something"
    again = runner.invoke(app, [*command, "--overwrite", "--json"])
    assert json.loads(again.output)["masks"] == 1


def test_a_folder_without_annotations_or_without_being_there_is_said(tmp_path: Path) -> None:
    for command in (["stats", str(tmp_path)], ["export", str(tmp_path)], [str(tmp_path / "none")]):
        error = runner.invoke(app, ["annotate", *command]).exception
        assert isinstance(error, AnymaskError)
        assert str(tmp_path) in str(error)


def test_a_weak_token_is_refused(annotated: Path) -> None:
    error = runner.invoke(app, ["annotate", str(annotated), "--token", "abc"]).exception
    assert isinstance(error, AnymaskError)


def test_the_help_says_both_ways() -> None:
    shown = runner.invoke(app, ["annotate", "--help"])
    assert shown.exit_code == 0
    for word in ("open", "stats", "export", "annotate DIR"):
        assert word in shown.output
    assert runner.invoke(app, ["annotate"]).exit_code in (0, 2)
    assert runner.invoke(app, ["annotate", "--nonsense", "x"]).exit_code == 2
