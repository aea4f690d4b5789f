"""The audit of automatic masks: pairs by id and by overlap, what was removed and added."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from anymask.cli.evaluate import app
from anymask.data.annotated import AnnotatedImage
from anymask.data.sa1b import write_sa1b_folder
from anymask.errors import DataError
from anymask.evaluation.quality import evaluate_quality, pair_masks
from anymask.records import MaskRecord


def bar(length: int, row: int = 0) -> np.ndarray:
    """A row of pixels: the IoU of two is the ratio of their lengths."""
    mask = np.zeros((4, 100), dtype=bool)
    mask[row, :length] = True
    return mask


def image(masks: dict[int, np.ndarray], name: str = "a.png") -> AnnotatedImage:
    records = tuple(MaskRecord.from_mask(number, mask) for number, mask in masks.items())
    return AnnotatedImage(name, (4, 100), records)


def test_by_hand(tmp_path: Path) -> None:
    automatic = image({1: bar(100), 2: bar(92, 1), 3: bar(80, 2), 4: bar(50, 3)})
    corrected = image({1: bar(100), 2: bar(100, 1), 3: bar(100, 2), 5: bar(7, 3)})
    second = image({1: bar(60)}, "b.png"), image({1: bar(100)}, "b.jpg")
    results = evaluate_quality([automatic, second[0], image({}, "c.png")], [corrected, second[1]], tmp_path / "out")
    assert results.ious == pytest.approx((0, 0.6, 0.8, 0.92, 1))
    assert (results.images, results.unchanged, results.removed, results.added) == (2, 1, 1, 1)
    of_all = results.sizes["all"]
    assert (of_all.masks, of_all.mean_iou, of_all.median_iou) == (5, pytest.approx(0.664), pytest.approx(0.8))
    assert of_all.above["0.90"].mean == pytest.approx(2 / 5)
    assert of_all.above["0.75"].mean == pytest.approx(3 / 5)
    page = (tmp_path / "out" / "quality.md").read_text()
    assert "| SA-1B (paper) | 50,000 | 94.0 | 97.0 | - | - |" in page
    assert "1 unchanged, 1 removed" in page
    assert json.loads((tmp_path / "out" / "quality.json").read_text())["added"] == 1
    assert (tmp_path / "out" / "quality.png").stat().st_size > 1000


@pytest.mark.parametrize("pairing", ["id", "overlap"])
def test_the_same_masks_score_one_and_empty_ones_nought(tmp_path: Path, pairing: str) -> None:
    masks = {1: bar(30), 2: bar(40, 1)}
    empty = dict.fromkeys(masks, bar(0))
    for automatic, score in ((masks, 1.0), (empty, 0.0)):
        results = evaluate_quality([image(automatic)], [image(masks)], tmp_path / "out", pairing)
        assert results.sizes["all"].mean_iou == score
        assert results.sizes["all"].above["0.90"].mean == score


def test_overlap_finds_the_best_assignment() -> None:
    automatic, corrected = image({1: bar(50), 2: bar(60)}), image({8: bar(60), 9: bar(90)})
    # The first overlaps 8 more than 9, but the second is 8 itself.
    assert pair_masks(automatic, corrected, "overlap") == [(0, 1, pytest.approx(5 / 9)), (1, 0, 1.0)]
    assert pair_masks(automatic, corrected, "id") == [(0, None, 0.0), (1, None, 0.0)]


def test_what_is_refused(tmp_path: Path) -> None:
    one = image({1: bar(5)})
    with pytest.raises(DataError, match="pairing is 'best'"):
        evaluate_quality([one], [one], tmp_path, "best")
    with pytest.raises(DataError, match="0 images are in both"):
        evaluate_quality([one], [image({}, "z.png")], tmp_path)
    other = AnnotatedImage("a.png", (5, 5), ())
    with pytest.raises(DataError, match=r"a\.png is \(4, 100\)"):
        evaluate_quality([one], [other], tmp_path)


def test_the_command(tmp_path: Path) -> None:
    write_sa1b_folder(tmp_path / "auto", [image({1: bar(50), 2: bar(90, 1)})])
    write_sa1b_folder(tmp_path / "corrected", [image({1: bar(50), 2: bar(100, 1)})])
    folders = [str(tmp_path / "auto"), str(tmp_path / "corrected")]
    result = CliRunner().invoke(app, ["quality", *folders, "-o", str(tmp_path / "out")], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert "IoU > 0.90" in result.stdout
    assert "95.0" in result.stdout  # mean IoU of 1 and 0.9
