"""All experiments on the same sets: one page, means of both kinds of sets, resumption, several processes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from known_scene import Scene
from PIL import Image
from typer.testing import CliRunner

from anymask.cli.evaluate import app
from anymask.data.sa1b import read_json, write_text_atomically
from anymask.errors import DataError
from anymask.evaluation import suite
from anymask.evaluation.baseline import RegionBaseline
from anymask.evaluation.edges.detector import EdgeSettings
from anymask.evaluation.edges.experiment import ModelEdges
from anymask.evaluation.point_scores import evaluate_points
from anymask.evaluation.points import PointSettings
from anymask.evaluation.proposals import GeneratorProposer, ProposalSettings, evaluate_proposals
from anymask.evaluation.suite import SuiteSettings, evaluate_suite
from anymask.evaluation.truth import open_truth
from anymask.geometry.boundaries import label_boundaries
from anymask.model.segmenter import Segmenter
from anymask.predictor import Predictor


@pytest.fixture
def both(scene: Scene, tmp_path: Path) -> list[Path]:
    """The scene, and a set of one of its images that says which class each mask is of."""
    other = tmp_path / "classes" / "zeroshot"
    other.mkdir(parents=True)
    Image.fromarray(scene.images[0]).save(other / "d.png")
    content = read_json(scene.folder / "a.json")
    content["image"]["file_name"] = "d.png"
    for number, annotation in enumerate(content["annotations"]):
        annotation["category"] = "odd" if number % 2 else "even"
    write_text_atomically(other / "d.json", json.dumps(content))
    return [scene.folder, other]


@pytest.fixture
def edges(scene: Scene, tmp_path: Path) -> Path:
    """One picture with BSDS ground truth."""
    from scipy.io import savemat

    truth_dir = tmp_path / "bsds" / "groundTruth" / "test"
    truth_dir.mkdir(parents=True)
    labels = 1 + (scene.masks[0] * np.arange(1, 5)[:, None, None]).sum(axis=0).astype(np.uint16)
    cells = np.empty((1, 1), dtype=object)
    cells[0, 0] = {"Segmentation": labels, "Boundaries": label_boundaries(labels)}
    savemat(truth_dir / "1.mat", {"groundTruth": cells})
    (tmp_path / "bsds" / "test").mkdir()
    Image.fromarray(scene.images[0]).save(tmp_path / "bsds" / "test" / "1.png")
    return truth_dir


def test_one_page_of_everything(both: list[Path], edges: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "ModelEdges", partial(ModelEdges, settings=EdgeSettings(points_per_side=2)))
    out, base = tmp_path / "out", tmp_path / "baseline"
    limits = ["--max-images", "1", "--max-objects", "2", "--points-per-side", "2"]
    options = ["--zero-shot", "classes/zeroshot", "--edges", str(edges), "--against", str(base), "-o", str(out)]
    evaluate_points(RegionBaseline(), both, base, PointSettings((1,), feedback=False, max_images=1, max_objects=2))
    result = CliRunner().invoke(app, ["all", *map(str, both), *limits, *options], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    for expected in ("mean of 1 zero-shot", "AP refined", "AR@1000", "matching of edges: "):
        assert expected in result.stdout
    page = (out / "results.md").read_text()
    for expected in (
        "| mean of 1 in-domain | 1 |",
        "| mean of 1 zero-shot | 1 |",
        "| mean over sets | 2 |",
        "By class: classes/zeroshot",
        "| lead | 1 | oracle | box |",
        "| Canny, 1986 |",
    ):
        assert expected in page
    assert "By class: shapes/test" not in page
    written = read_json(out / "results.json")
    folders = out / "points", base
    ours, theirs = (read_json(of / "results.json")["sets"]["shapes/test"]["miou"]["box"] for of in folders)
    assert written["leads"]["box"]["shapes/test"] == pytest.approx(100 * (ours - theirs))
    assert written["points"]["sets"]["shapes/test"]["miou"]["box"] == ours
    assert set(written["instances"]) == set(written["proposals"]) == {"shapes/test", "classes/zeroshot"}
    assert {"points", "instances", "proposals", "edges", "matching of edges"} <= set(written["seconds"])


def test_what_makes_no_sense_is_refused(random_tiny: Segmenter, both: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="zero_shot names shapes/train"):
        evaluate_suite(Predictor(random_tiny), both, tmp_path, SuiteSettings(zero_shot=("shapes/train",)))
    with pytest.raises(DataError, match="sample_images is 0"):
        SuiteSettings(sample_images=0)


@pytest.mark.slow
def test_several_processes_write_the_same_files(random_tiny: Segmenter, both: list[Path], tmp_path: Path) -> None:
    settings, of_proposals = PointSettings(clicks=(1, 2), feedback=False), ProposalSettings(points_per_side=2)
    recall = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        evaluate_points(RegionBaseline(), both, out, settings, workers=workers)
        proposer = GeneratorProposer(random_tiny, of_proposals)
        proposals = evaluate_proposals(proposer, open_truth(both[0]), out / "p", of_proposals, workers=workers)
        recall.append(proposals.recall["mask"]["all"])
    points = [{path.name: path.read_bytes() for path in (tmp_path / of / "predictions").rglob("?.json")} for of in "12"]
    assert set(points[0]) == {"a.json", "b.json", "c.json", "d.json"}
    assert points[0] == points[1]
    # A network's last bits depend on the number of threads.
    assert recall[0] == pytest.approx(recall[1])
