"""Object proposals: all-knowing, ignorant and half-knowing, by size and frequency, resumed and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detection_scene import KnownProposals, write_instances
from known_scene import Scene
from typer.testing import CliRunner

from anymask.cli.evaluate import app
from anymask.errors import DataError
from anymask.evaluation.proposals import (
    GeneratorProposer,
    ProposalResults,
    ProposalSettings,
    evaluate_proposals,
    score_proposals,
)
from anymask.evaluation.truth import open_truth
from anymask.model.segmenter import Segmenter


def judge(scene: Scene, answer: object, out: Path, path: Path | None = None) -> ProposalResults:
    return evaluate_proposals(KnownProposals(scene, answer), open_truth(path or scene.folder), out)


@pytest.mark.parametrize(
    ("answer", "score"), [(lambda masks: masks, 1.0), (lambda masks: [np.zeros_like(masks[0])], 0.0)]
)
def test_all_knowing_scores_one_and_ignorance_nought(
    scene: Scene, tmp_path: Path, answer: object, score: float
) -> None:
    path = write_instances(scene, scene.folder.parent / "lvis_test.json", is_lvis=True)
    results = judge(scene, answer, tmp_path / "out", path)
    assert results.objects == {"all": 8, "small": 2, "medium": 6, "large": 0, "rare": 3, "common": 2, "frequent": 3}
    for of_kind in results.recall.values():
        for group, of_group in of_kind.items():
            if group == "large":
                assert np.isnan(list(of_group.values())).all()
            else:
                assert set(of_group.values()) == {score}


def test_recall_by_hand(scene: Scene, tmp_path: Path) -> None:
    """Ten empty proposals, then the first object, then half of the second (IoU one half: one threshold of ten)."""

    def answer(masks: np.ndarray) -> list[np.ndarray]:
        halves = [mask & (np.cumsum(mask).reshape(mask.shape) <= np.ceil(mask.sum() / 2)) for mask in masks[1:2]]
        return [*[np.zeros_like(masks[0])] * 10, masks[0], *halves]

    recall = judge(scene, answer, tmp_path / "out").recall["mask"]["all"]
    # Eight objects on three images: three firsts in full, two seconds at one threshold.
    assert recall == {
        "10": 0.0,
        "100": pytest.approx((3 + 2 * 0.1) / 8),
        "1000": pytest.approx((3 + 2 * 0.1) / 8),
    }


def test_a_run_goes_on_and_another_is_refused(scene: Scene, tmp_path: Path) -> None:
    proposer = KnownProposals(scene, lambda masks: masks)
    truth, out = open_truth(scene.folder), tmp_path / "out"
    evaluate_proposals(proposer, truth, out)
    (out / "predictions" / "images" / "b.json").unlink()
    evaluate_proposals(proposer, truth, out)
    assert proposer.asked == ["a.png", "b.png", "c.png", "b.png"]
    with pytest.raises(DataError, match="points_per_side was 64, now 8"):
        evaluate_proposals(proposer, truth, out, ProposalSettings(points_per_side=8))
    with pytest.raises(DataError, match=r"model\.name"):
        evaluate_proposals(KnownProposals(scene, lambda masks: masks, "other"), truth, out)
    (scene.folder / "c.json").write_text((scene.folder / "c.json").read_text() + " ")
    with pytest.raises(DataError, match=r"c\.png has changed"):
        score_proposals(out / "predictions")


def test_reports(scene: Scene, tmp_path: Path) -> None:
    results = judge(scene, lambda masks: masks, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["recall"]["mask"]["all"]["1000"] == 1
    assert written["recall"]["mask"]["large"]["1000"] is None
    assert written["published"]["SAM (paper)"]["all"] == 0.593
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| all | 8 | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 |" in page
    assert "| SAM (paper) | LVIS v1 | 59.3 | 45.5 | 81.6 | 86.9 |" in page
    assert "| known | shapes/test | 100.0 | 100.0 | 100.0 | - |" in page
    assert (tmp_path / "out" / "proposals.png").stat().st_size > 1000
    assert results.proposals == pytest.approx(8 / 3)


def test_a_network_proposes_without_filters(scene: Scene, random_tiny: Segmenter, tmp_path: Path) -> None:
    settings = ProposalSettings(points_per_side=4, max_images=1, max_proposals=5)
    proposer = GeneratorProposer(random_tiny, settings, tmp_path / "embeddings")
    results = evaluate_proposals(proposer, open_truth(scene.folder), tmp_path / "out", settings)
    content = json.loads((tmp_path / "out" / "predictions" / "images" / "a.json").read_text())
    scores = [entry["score"] for entry in content["proposals"]]
    assert 0 < len(scores) <= 5
    assert scores == sorted(scores, reverse=True)
    best = content["proposals"][0]
    assert best["score"] == pytest.approx((best["predicted_iou"] + best["stability_score"]) / 2)
    assert results.images == 1
    assert len(list((tmp_path / "embeddings").glob("*/*.safetensors"))) == 1


def test_the_command(scene: Scene, tmp_path: Path) -> None:
    options = ["--points-per-side", "2", "--max-images", "1", "-o", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(app, ["proposals", str(scene.folder), *options], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert "mask@1000" in result.stdout
    assert "SAM (paper)" in result.stdout
