"""`anymask export`, run as a user runs it: in this process, on the packaged model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import anymask
from anymask.cli.main import app
from anymask.errors import AnymaskError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

runner = CliRunner()


def test_folder_is_what_the_onnx_runtime_opens(tmp_path: Path) -> None:
    run = runner.invoke(app, ["export", "onnx", "folder", "--out", str(tmp_path / "graphs"), "--json"])
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "graphs").iterdir())
    image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    answers = []
    for model in (anymask.load_model(tmp_path / "graphs", runtime="onnx"), anymask.load_model(device="cpu")):
        predictor = anymask.Predictor(model)
        predictor.set_image(image)
        answers.append(predictor.predict(box=[20, 20, 90, 70]).logits)
    assert np.abs(answers[0] - answers[1]).max() <= 1e-4 * np.abs(answers[1]).max()


@pytest.mark.parametrize("kind", ["encoder", "decoder", "whole"])
def test_one_file_each(kind: str, tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "tiny.onnx"
    run = runner.invoke(app, ["export", "onnx", kind, "tiny", "-o", str(path), "--half"])
    assert run.exit_code == 0, run.output
    assert "MB" in run.output
    facts = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    assert facts["contract"] == f"{kind}-1"
    assert facts["model"] == "tiny"


def test_reference_decoder_is_refused_for_tiny(tmp_path: Path) -> None:
    run = runner.invoke(app, ["export", "onnx", "reference-decoder", "tiny", "-o", str(tmp_path / "tiny.onnx")])
    assert isinstance(run.exception, AnymaskError)
    assert "skip maps" in str(run.exception)


def test_int8_says_what_it_gains(tmp_path: Path) -> None:
    path = tmp_path / "tiny.int8.safetensors"
    run = runner.invoke(app, ["export", "int8", "tiny", "-o", str(path), "--json"])
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["speedup"] > 0
    assert report["bytes"] == path.stat().st_size
    assert anymask.load_model(path, device="cpu").name == "tiny"
    told = runner.invoke(app, ["export", "int8", "tiny", "-o", str(path)])
    assert "x as fast" in told.output
    assert "was not measured; give --evaluate" in told.output


def test_int8_calibrated_and_judged(tmp_path: Path) -> None:
    """One command to a quicker model, with what it costs; then any command takes the folder as a model."""
    from anymask.data.sa1b import write_sa1b

    data = tmp_path / "photos" / "test"
    data.mkdir(parents=True)
    pixels = np.random.default_rng(2).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    pixels[20:70, 30:90] //= 4
    Image.fromarray(pixels).save(data / "one.png")
    masks = np.zeros((1, 96, 128), dtype=bool)
    masks[0, 20:70, 30:90] = True
    write_sa1b(data / "one.json", "one.png", (96, 128), masks, [{}])
    fast = tmp_path / "fast"
    made = ["export", "int8", "-o", str(fast), "--calibrate", str(data)]
    run = runner.invoke(app, [*made, "--evaluate", str(data)])
    assert run.exit_code == 0, run.output
    assert "x as fast" in run.output
    assert "photos/test" in run.output
    for words in (
        ["segment", str(data / "one.png"), "--point", "centre"],
        ["everything", str(data / "one.png"), "--points-per-side", "4"],
        ["evaluate", "points", str(data), "--clicks", "1"],
    ):
        used = runner.invoke(app, [*words, "--model", str(fast), "-o", str(tmp_path / words[0])])
        assert used.exit_code == 0, used.output


@pytest.mark.parametrize(
    "command",
    [[], ["onnx"], ["int8"], *(["onnx", kind] for kind in ("encoder", "decoder", "whole", "folder"))],
    ids=str,
)
def test_help_tells_of_every_command(command: list[str]) -> None:
    run = runner.invoke(app, ["export", *command, "--help"])
    assert run.exit_code == 0
    assert "Usage" in run.output
