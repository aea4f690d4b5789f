"""`anymask everything` as its user calls it: folders in, files out, one after the other or side by side."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli_segment import run

from anymask.data.images import image_size_hw
from anymask.data.validation import validate_dataset

# Few points and open filters: whatever the packaged weights are, there are some masks.
QUICK = ("--points-per-side", "3", "--pred-iou", "0", "--stability", "0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures of discs, 90 x 120, in a folder and one inside it."""
    y, x = np.mgrid[:90, :120]
    folder = tmp_path / "photos"
    for index, name in enumerate(("a.png", "b.jpg", "deeper/c.png")):
        disc = (x - 40 - 20 * index) ** 2 + (y - 45) ** 2 < (20 + 5 * index) ** 2
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(disc[..., None], (230, 190, 40), (20, 30, 80)).astype(np.uint8)).save(path)
    return folder


def test_a_folder_of_photographs(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("everything", photos, "-o", out, "--recursive", "--overlay", *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["images"], summary["done_before"], summary["skipped"]) == (3, 0, [])
    assert summary["masks"] == sum(len(read(path)["annotations"]) for path in (out / "a.json", out / "b.json")) + len(
        read(out / "deeper" / "c.json")["annotations"]
    )
    assert summary["masks"] >= 3
    for name in ("a", "b", "deeper/c"):
        assert image_size_hw(out / "overlays" / f"{name}.jpg") == (90, 120)
    assert validate_dataset(out, "sa1b").problems == []
    again = run("everything", photos, "-o", out, "--recursive", "--overlay", *QUICK, "--json")
    assert json.loads(again.stdout)["done_before"] == 3


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_summary_for_people(photos: Path, tmp_path: Path) -> None:
    done = run("everything", photos / "a.png", "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "masks of 1 image in" in done.stdout
    assert "a.png: " in done.stderr
    again = run("everything", photos / "a.png", "-o", tmp_path / "out", *QUICK)
    assert again.stdout == f"1 image done before, in {tmp_path / 'out'}\n"


def test_a_bad_image_is_reported_and_the_others_are_done(photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes(b"\x89PNG")
    done = run("everything", photos, "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 1
    assert "masks of 2 images" in done.stdout
    assert "1 image skipped:" in done.stderr
    assert str(photos / "bad.png") in done.stderr
    assert (tmp_path / "out" / "a.json").exists()
    assert not (tmp_path / "out" / "bad.json").exists()


def test_options_reach_the_generator(photos: Path, tmp_path: Path) -> None:
    roi = np.zeros((90, 120), np.uint8)
    roi[:, :60] = 255
    Image.fromarray(roi).save(tmp_path / "roi.png")
    options = ("--roi", tmp_path / "roi.png", "--max-masks", "2", "--min-area", "30", "--max-area", "2000")
    done = run("everything", photos, "-o", tmp_path / "out", *QUICK, "--crop-layers", "1", *options)
    assert done.returncode == 0, done.stderr
    for name in ("a", "b"):
        annotations = read(tmp_path / "out" / f"{name}.json")["annotations"]
        assert len(annotations) <= 2
        for annotation in annotations:
            x, _, width, _ = annotation["bbox"]
            assert x + width <= 60
            assert 30 <= annotation["area"] <= 2000


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 1, "nowhere"),
        (["photos", "--format", "tiff"], 1, "format is 'tiff'"),
        (["photos", "--pictures", "some"], 2, "--pictures"),
        (["photos", "--pred-iou", "88"], 2, "--pred-iou"),
        (["photos", "--min-area", "9", "--max-area", "3"], 1, "min_area is 9"),
        (["photos", "--checkpoint", "photos/a.png"], 1, "is not a checkpoint"),
        (["photos", "--roi", "photos/none.png"], 1, "none.png"),
        (["photos", "-o", "photos"], 1, "itself"),
    ],
)
def test_what_cannot_be_is_one_line(
    photos: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(photos.parent)
    done = run("everything", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (photos.parent / "out").exists()


@pytest.mark.slow
def test_two_workers_write_what_one_writes(photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes(b"\x89PNG")
    for workers in ("1", "2"):
        done = real("everything", photos, "-o", tmp_path / workers, "--recursive", "--workers", workers, *QUICK)
        out, errors = done.communicate(timeout=300)
        assert done.returncode == 1, errors
        assert "masks of 3 images" in out
        assert "1 image skipped" in errors
    for name in ("a.json", "b.json", "deeper/c.json"):
        one, two = (read(tmp_path / workers / name)["annotations"] for workers in ("1", "2"))
        assert len(one) == len(two) > 0
        np.testing.assert_allclose(  # another number of threads adds up in another order
            [annotation["area"] for annotation in one], [annotation["area"] for annotation in two], atol=3
        )


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["sa1b", "coco"])
def test_a_killed_run_goes_on(photos: Path, tmp_path: Path, format_name: str) -> None:
    for index in range(6):
        shutil.copy(photos / "a.png", photos / f"d{index}.png")
    out = tmp_path / "out"
    arguments = ("everything", photos, "-o", out, "--format", format_name, *QUICK, "--json")
    killed = real(*arguments, "--points-per-side", "8")
    while not (begun := list(out.rglob("a.json"))):
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    written = begun[0].stat().st_mtime_ns
    go_on = real(*arguments, "--points-per-side", "8")
    summary = json.loads(go_on.communicate(timeout=300)[0])
    assert summary["done_before"] >= 1
    assert summary["done_before"] + summary["images"] == 8
    assert begun[0].stat().st_mtime_ns == written
    assert validate_dataset(out, format_name).problems == []


def real(*arguments: str | Path) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "anymask", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
