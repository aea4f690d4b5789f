"""From pictures to the benchmark's figures: export, matching, resumption, refusal, the models' and Canny's edges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("scipy")

from anymask.embedding import encode_images
from anymask.errors import AnymaskError, DataError
from anymask.evaluation.edges.canny import CannyDetector
from anymask.evaluation.edges.detector import EdgeSettings, detect_edges, distinct_logits, edge_strength, thin_edges
from anymask.evaluation.edges.experiment import evaluate_edges, read_edges
from anymask.evaluation.processes import kept_processes, work_in_processes
from anymask.geometry.boundaries import label_boundaries
from anymask.model.segmenter import Segmenter


@pytest.fixture
def bsds(tmp_path: Path, photo: tuple[np.ndarray, np.ndarray]) -> Path:
    """Two pictures in BSDS500's layout, two annotators each; the second drew one object only. The truth's folder."""
    from scipy.io import savemat

    image, masks_khw = photo
    labels = 1 + (masks_khw * np.arange(1, 5)[:, None, None]).sum(axis=0).astype(np.uint16)
    truth_dir = tmp_path / "bsds" / "groundTruth" / "test"
    truth_dir.mkdir(parents=True)
    images_dir = tmp_path / "bsds" / "images" / "test"
    images_dir.mkdir(parents=True)
    for name, turned in (("1", slice(None)), ("2", slice(None, None, -1))):
        cells = np.empty((1, 2), dtype=object)
        for index, drawn in enumerate((labels[turned], np.where(labels == 2, 2, 1)[turned])):
            cells[0, index] = {"Segmentation": drawn.astype(np.uint16), "Boundaries": label_boundaries(drawn)}
        savemat(truth_dir / f"{name}.mat", {"groundTruth": cells})
        Image.fromarray(np.ascontiguousarray(image[turned])).save(images_dir / f"{name}.png")
    return truth_dir


class Oracle:
    """Draws what the first annotator drew, or nothing; counts its pictures."""

    def __init__(self, truth_dir: Path, draws: bool = True) -> None:
        self.truth_dir, self.draws, self.seen = truth_dir, draws, 0

    def detect(self, image_path: Path) -> np.ndarray:
        from anymask.data.bsds import read_bsds_truth

        self.seen += 1
        boundary = read_bsds_truth(self.truth_dir / f"{image_path.stem}.mat")[0].boundary_hw
        return boundary.astype(np.float32) * self.draws

    def describe(self) -> dict[str, Any]:
        return {"name": "oracle" if self.draws else "nothing"}


def test_an_oracle_finds_all_and_nothing_nothing(bsds: Path, tmp_path: Path) -> None:
    results = evaluate_edges(Oracle(bsds), bsds, tmp_path / "out")
    # It draws all that either annotator drew, and all of it is there.
    assert (results.scores.ods, results.scores.ois, results.scores.ap, results.scores.r50) == (1, 1, 1, 1)
    assert results.data == "bsds/groundTruth/test"
    none = evaluate_edges(Oracle(bsds, draws=False), bsds, tmp_path / "none").scores
    assert (none.ods, none.ois, none.ap, none.r50) == (0, 0, 0, 0)
    assert "| oracle (measured) | 1.000 | 1.000 | 1.000 | 1.000 |" in (tmp_path / "out" / "results.md").read_text()
    assert "| SAM (ViT-H), zero-shot | .768 | .786 | .794 | .928 |" in (tmp_path / "out" / "results.md").read_text()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["scores"]["ods"] == 1
    with Image.open(tmp_path / "out" / "edges.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_what_is_done_is_not_done_again_and_what_changed_is(bsds: Path, tmp_path: Path) -> None:
    judged = Oracle(bsds)
    first = evaluate_edges(judged, bsds, tmp_path / "out", max_images=1)
    assert (judged.seen, first.images) == (1, 1)
    counts = tmp_path / "out" / "counts" / "1.json"
    kept = counts.stat().st_ino
    both = evaluate_edges(judged, bsds, tmp_path / "out")
    assert (judged.seen, both.images) == (2, 2)
    assert counts.stat().st_ino == kept
    # Whoever drew the file: the score is of what it holds.
    edges = tmp_path / "out" / "predictions" / "images" / "1.png"
    Image.fromarray(np.zeros((120, 160), dtype=np.uint16)).save(edges)
    assert evaluate_edges(judged, bsds, tmp_path / "out").scores.ods < 0.8
    assert counts.stat().st_ino != kept
    with pytest.raises(DataError, match=r"model\.name was 'oracle', now 'nothing'"):
        evaluate_edges(Oracle(bsds, draws=False), bsds, tmp_path / "out")


def test_broken_files_and_missing_pictures_are_named(bsds: Path, tmp_path: Path) -> None:
    evaluate_edges(Oracle(bsds), bsds, tmp_path / "out")
    edges = tmp_path / "out" / "predictions" / "images" / "2.png"
    Image.fromarray(np.zeros((3, 4), dtype=np.uint16)).save(edges)
    with pytest.raises(DataError, match=r"2\.png: is \(3, 4\)"):
        evaluate_edges(Oracle(bsds), bsds, tmp_path / "out")
    Image.fromarray(np.zeros((3, 4), dtype=np.uint8)).save(edges)
    with pytest.raises(DataError, match="16 bits a pixel"):
        read_edges(edges)
    (bsds.parent.parent / "images" / "test" / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.mat: its picture was not found"):
        evaluate_edges(Oracle(bsds), bsds, tmp_path / "other")


def test_canny_finds_what_differs_in_colour(bsds: Path, tmp_path: Path) -> None:
    results = evaluate_edges(CannyDetector(), bsds, tmp_path / "out", max_images=1)
    assert results.scores.ods > 0.6
    assert results.model == {"name": "canny", "sigma": 2.0}


def test_a_models_edges_lie_on_outer_boundaries(random_tiny: Segmenter, photo: tuple[np.ndarray, np.ndarray]) -> None:
    embedding = encode_images(random_tiny, [photo[0]])[0]
    settings = EdgeSettings(points_per_side=4)
    logits = distinct_logits(random_tiny, embedding, settings)
    assert 0 < len(logits) <= 48
    assert len(distinct_logits(random_tiny, embedding, EdgeSettings(points_per_side=4, box_nms_thresh=1.0))) >= len(
        logits
    )
    edges = detect_edges(random_tiny, embedding, settings)
    assert edges.shape == (120, 160)
    assert edges.dtype == np.float32
    assert 0 <= edges.min() <= edges.max() <= 1
    # Where memory lies may change a sum's last bit; whether a pixel is an edge must not hang on it.
    again = detect_edges(random_tiny, embedding, settings)
    np.testing.assert_allclose(again, edges, rtol=1e-6)
    np.testing.assert_array_equal(again > 0, edges > 0)


def test_the_strength_is_the_slope_of_the_probability_beside_the_mask(
    random_tiny: Segmenter, photo: tuple[np.ndarray, np.ndarray]
) -> None:
    embedding = encode_images(random_tiny, [photo[0]])[0]
    cells_hw = tuple(4 * side for side in embedding.features.embedding.shape[-2:])
    logits = np.full((2, *cells_hw), -20, dtype=np.float32)
    logits[0, 10:20, 10:20] = 20
    logits[1, 10:20, 10:20] = 0.2  # the same mask, hardly sure: its slope is nowhere the steeper one
    strength = edge_strength(logits, embedding)
    apart = np.maximum(*(edge_strength(one[None], embedding) for one in logits))
    np.testing.assert_allclose(strength, apart, rtol=1e-6)  # where memory lies may change a sum's last bit
    sure = edge_strength(logits[:1], embedding)
    box = cv2.boundingRect((sure > 0).astype(np.uint8))
    assert sure[box[1] + 3 : box[1] + box[3] - 3, box[0] + 3 : box[0] + box[2] - 3].max() == 0  # a ring
    assert not edge_strength(np.full((1, *cells_hw), -20, dtype=np.float32), embedding).any()


def test_the_scale_is_the_same_for_all_images_or_each_ones_own() -> None:
    strength = np.zeros((20, 20), dtype=np.float32)
    strength[:, 5], strength[:, 15] = 1, 3
    raw = {"smoothing": 0.0, "thinning": 1.0}
    shared = thin_edges(strength, EdgeSettings(**raw, full_strength=2.0))
    assert (shared[10, 5], shared[10, 15]) == (0.5, 1)
    own = thin_edges(strength, EdgeSettings(**raw, full_strength=None))
    assert (own[10, 5], own[10, 15]) == (pytest.approx(1 / 3), 1)
    assert not thin_edges(0 * strength, EdgeSettings(full_strength=None)).any()


@pytest.mark.parametrize(
    "wrong", [{"points_per_side": 0}, {"box_nms_thresh": 2}, {"smoothing": -1}, {"thinning": 0}, {"full_strength": 0}]
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(AnymaskError, match=next(iter(wrong))):
        EdgeSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_work_is_done_in_one_process_or_in_several(workers: int) -> None:
    assert sorted(work_in_processes(pow, 2, [3, 2, 1], workers)) == [2, 4, 8]
    assert list(work_in_processes(pow, 2, [], workers)) == []
    with pytest.raises(AnymaskError, match="workers is 0"):
        list(work_in_processes(pow, 2, [1], 0))
    with pytest.raises(TypeError):
        list(work_in_processes(pow, 2, ["one", 2], workers))
    with kept_processes(workers):
        assert sorted(work_in_processes(pow, 2, [3, 2, 1], workers)) == [2, 4, 8]
        with pytest.raises(TypeError):
            list(work_in_processes(pow, 2, ["one", 2], workers))
        assert sorted(work_in_processes(pow, 3, [3, 2, 1], workers)) == [3, 9, 27]
