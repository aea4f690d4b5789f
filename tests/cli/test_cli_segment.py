"""`anymask segment` as its user calls it: real files, every bad input one line and no traceback."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from anymask.cli.main import main


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in this process, which spares each test torch's import; one test starts a real one."""
    command = ["anymask", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", command),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as exit_,
    ):
        main()
    return subprocess.CompletedProcess(command, int(exit_.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yellow disc on dark blue, 120 x 160."""
    y, x = np.mgrid[:120, :160]
    disc = (x - 80) ** 2 + (y - 60) ** 2 < 35**2
    path = tmp_path_factory.mktemp("segment") / "disc.png"
    Image.fromarray(np.where(disc[..., None], (230, 190, 40), (20, 30, 80)).astype(np.uint8)).save(path)
    return path


def test_a_click_gives_masks_scores_and_pictures(picture: Path, tmp_path: Path) -> None:
    done = run("segment", picture, "--point", "80,60", "--cutout", "-o", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["scores"]) == 3
    assert result["scores"] == sorted(result["scores"], reverse=True)
    mask = np.asarray(Image.open(tmp_path / "disc.mask-1.png"))
    assert mask.shape == (120, 160)
    assert mask[60, 80] == 255
    assert mask[2, 2] == 0
    assert np.asarray(Image.open(tmp_path / "disc.cutout.png")).shape[2] == 4
    assert np.asarray(Image.open(tmp_path / "disc.overlay.png")).shape == (120, 160, 3)
    record = json.loads((tmp_path / "disc.json").read_text())
    assert record["annotations"][0]["area"] == int((mask > 0).sum())


def test_the_answer_for_people_names_every_file(picture: Path, tmp_path: Path) -> None:
    done = run("segment", picture, "--box", "40,20,120,100", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("disc.overlay.png", "disc.mask-3.png", "disc.json"):
        assert name in done.stdout


def test_the_region_of_interest_bounds_the_mask(picture: Path, tmp_path: Path) -> None:
    roi = np.zeros((120, 160), np.uint8)
    roi[:, :80] = 255
    Image.fromarray(roi).save(tmp_path / "roi.png")
    done = run("segment", picture, "--point", "60,60", "--roi", tmp_path / "roi.png", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    for index in (1, 2, 3):
        assert not np.asarray(Image.open(tmp_path / f"disc.mask-{index}.png"))[:, 80:].any()


def test_a_rough_mask_alone_is_a_prompt(picture: Path, tmp_path: Path) -> None:
    rough = np.zeros((120, 160), np.uint8)
    rough[30:90, 50:110] = 255
    Image.fromarray(rough).save(tmp_path / "rough.png")
    done = run("segment", picture, "--mask", tmp_path / "rough.png", "-o", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["scores"]) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the prompt is empty"),
        (["--point", "500,20"], "500.0, 20.0"),
        (["--point", "a,b"], "--point 'a,b'"),
        (["--point", "1,2:7"], "must be 0 or 1"),
        (["--point", "nan,2"], "NaN"),
        (["--box", "1,2,3"], "--box '1,2,3'"),
        (["--box", "50,50,50,90"], "no area"),
        (["--box", "500,500,600,600"], "outside the image"),
        (["--point", "80,60", "--device", "tpu"], "'tpu'"),
        (["--point", "80,60", "--model", "giant"], "giant"),
        (["--point", "80,60", "--checkpoint", "nowhere.pth"], "nowhere.pth"),
        (["--point", "80,60", "--model", "vit_b"], "models pull vit_b"),
    ],
)
def test_bad_arguments_are_one_line(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.setenv("ANYMASK_CACHE", str(tmp_path / "cache"))
    done = run("segment", picture, *arguments, "-o", tmp_path)
    assert_one_line(done, told)
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("name", "content"),
    [("broken.jpg", b"\xff\xd8\xff\xe0 not a picture"), ("notes.png", b"hello"), ("empty.jpg", b"")],
)
def test_a_file_that_is_no_image_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert_one_line(run("segment", tmp_path / name, "--point", "1,1", "-o", tmp_path), name)


def test_a_truncated_photograph_is_one_line(picture: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(picture.read_bytes()[:200])
    assert_one_line(run("segment", path, "--point", "1,1", "-o", tmp_path), "cut.png")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert_one_line(run("segment", tmp_path / "gone.jpg", "--point", "1,1", "-o", tmp_path), "gone.jpg")


def test_the_installed_command_keeps_the_same_promises(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "anymask", "segment", str(tmp_path / "gone.jpg"), "--point", "1,1"]
    assert_one_line(subprocess.run(command, capture_output=True, text=True, timeout=120, check=False), "gone.jpg")


def test_wrong_usage_exits_with_two() -> None:
    assert run("segment").returncode == 2
    assert run("no-such-command").returncode == 2


def assert_one_line(done: subprocess.CompletedProcess[str], told: str) -> None:
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_detectors_boxes_become_masks_with_their_labels(picture: Path, tmp_path: Path) -> None:
    boxes = [{"image": "disc.png", "box": [40, 20, 120, 100], "label": "sun", "score": 0.8, "id": 5}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    given = ("segment", picture.parent, "--boxes", tmp_path / "boxes.json", "-o", tmp_path / "out", "--json")
    done = run(*given)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["masks"] == 1
    (record,) = json.loads((tmp_path / "out" / "disc.json").read_text())["annotations"]
    assert (record["id"], record["category"], record["score"]) == (5, "sun", 0.8)
    assert record["prompt_box"] == [40, 20, 80, 80]
    with Image.open(tmp_path / "out" / "overlays" / "disc.jpg") as overlay:
        assert overlay.size == (160, 120)
    assert json.loads(run(*given).stdout)["done_before"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--boxes", "BOXES", "--point", "3,4"], 2, "together with --boxes"),
        ([], 2, "is a folder"),
        (["--boxes", "nowhere.json"], 1, "nowhere.json: no such file"),
        (["--boxes", "BOXES"], 1, "no box is of an image here"),
    ],
)
def test_boxes_and_folders_that_do_not_fit(
    picture: Path, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    (tmp_path / "boxes.json").write_text('{"other.png": [[1, 2, 3, 4]]}')
    words = [str(tmp_path / "boxes.json") if word == "BOXES" else word for word in arguments]
    done = run("segment", picture.parent, *words, "-o", tmp_path / "out")
    assert done.returncode == code
    assert told in " ".join(done.stderr.replace("│", " ").split())
