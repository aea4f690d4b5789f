"""The paper's second zero-shot experiment (7.2 and D.2): edges on BSDS500, exported first, then scored.

`export_edges` writes each image's edges as a 16-bit PNG, `count_edges` matches the files with the annotators'
boundaries in several processes, `evaluate_edges` does it all and writes the report. Whatever is done is not done again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from anymask.data.bsds import bsds_pictures, bsds_truths, read_bsds_truth
from anymask.data.sa1b import read_json, write_bytes_atomically, write_text_atomically
from anymask.errors import DataError
from anymask.evaluation.edges.benchmark import (
    THRESHOLD_COUNT,
    EdgeCounts,
    EdgeScores,
    count_image,
    score_edges,
    thresholds,
)
from anymask.evaluation.edges.detector import EdgeSettings, detect_edges
from anymask.evaluation.embeddings import cached_embedding
from anymask.evaluation.predictions import PredictionFolder, evenly_spaced
from anymask.evaluation.processes import work_in_processes
from anymask.evaluation.report import how_made, markdown_table, write_report
from anymask.model.segmenter import Segmenter

# ODS, OIS, AP and R50 on BSDS500's test images (paper, table 3; people: Arbelaez and others, 2011).
PUBLISHED: dict[str, tuple[float | None, ...]] = {
    "Sobel filter, 1968": (0.539, None, None, None),
    "Canny, 1986": (0.600, 0.640, 0.580, None),
    "Felzenszwalb-Huttenlocher, 2004": (0.610, 0.640, 0.560, None),
    "SAM (ViT-H), zero-shot": (0.768, 0.786, 0.794, 0.928),
    "HED, 2015, trained on BSDS500": (0.788, 0.808, 0.840, 0.923),
    "EDETR, 2022, trained on BSDS500": (0.840, 0.858, 0.896, 0.930),
    "people": (0.80, None, None, None),
}
_FULL_SCALE = 65535

Progress = Callable[[str, int, int], None]


class EdgeDetector(Protocol):
    """Finds the edges of an image file."""

    def detect(self, image_path: Path) -> np.ndarray:
        """Thin edges (H, W) float32 in [0, 1]."""

    def describe(self) -> dict[str, Any]:
        """Who it is and how it works, as JSON values that change whenever the edges may."""


class ModelEdges:
    """The edges of a promptable model; `embeddings` is the folder that keeps its embeddings, or None."""

    def __init__(
        self, model: Segmenter, settings: EdgeSettings | None = None, embeddings: str | Path | None = None
    ) -> None:
        self.model = model
        self.settings = settings or EdgeSettings()
        self.embeddings = embeddings

    def detect(self, image_path: Path) -> np.ndarray:
        """See `detector.detect_edges`. Raises ImageError when the file cannot be read."""
        return detect_edges(self.model, cached_embedding(self.model, image_path, self.embeddings), self.settings)

    def describe(self) -> dict[str, Any]:
        """The model's name, the fingerprint of its weights and the settings."""
        from anymask.model.checkpoints import fingerprint

        return {"name": self.model.name, "fingerprint": fingerprint(self.model), **asdict(self.settings)}


@dataclass(frozen=True)
class EdgeResults:
    """The experiment's result. precision and recall: the whole curve, one value for each threshold."""

    model: dict[str, Any]
    data: str
    images: int
    scores: EdgeScores
    precision: list[float]
    recall: list[float]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: the published figures, then the one that was measured."""
        rows = [[name, *map(_three_digits, figures)] for name, figures in PUBLISHED.items()]
        own = self.scores
        measured = [_three_digits(figure) for figure in (own.ods, own.ois, own.ap, own.r50)]
        return ["edges", "ODS", "OIS", "AP", "R50"], [*rows, [f"{self.model['name']} (measured)", *measured]]

    def to_markdown(self) -> str:
        """A page with the table and how it was made."""
        own = self.scores
        return (
            f"# Edges: {self.data}\n\n{markdown_table(*self.table())}\n"
            "ODS: best F with one threshold for all images; OIS: with each image's own; AP: area under precision over "
            f"recall; R50: recall at half precision. At its threshold, {own.threshold:.3f}, precision is "
            f"{own.precision:.3f} and recall {own.recall:.3f}. Published figures are for all 200 test images.\n\n"
            + how_made({"images": self.images, **self.model})
        )


def evaluate_edges(
    detector: EdgeDetector,
    truth_dir: str | Path,
    out: str | Path,
    images_dir: str | Path | None = None,
    max_images: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> EdgeResults:
    """Run the whole experiment on a folder of BSDS ground truth (groundTruth/test) and write it down.

    Writes out/predictions/images/NAME.png, out/counts/NAME.json, out/results.json, out/results.md and out/edges.png;
    a run that was broken off goes on where it stopped. Pictures: see `bsds_pictures`. Raises DataError for broken
    data, a picture that is missing, or an `out` that was used otherwise.
    """
    from anymask.evaluation.plots import plot_edges

    truth_dir, out = Path(truth_dir), Path(out)
    truths = evenly_spaced(bsds_truths(truth_dir), max_images)
    predictions = export_edges(detector, truth_dir, truths, out / "predictions", images_dir, progress, workers)
    counts = count_edges(predictions, truths, out / "counts", workers, progress)
    scores = score_edges(counts, thresholds())
    total = EdgeCounts.from_rows(sum((count.rows() for count in counts), np.zeros((4, THRESHOLD_COUNT), np.int64)))
    name = "/".join(truth_dir.resolve().parts[-3:])
    results = EdgeResults(
        predictions.config["model"], name, len(truths), scores, total.precision.tolist(), total.recall.tolist()
    )
    write_report(out, asdict(results), results.to_markdown())
    plot_edges(results, out / "edges.png")
    return results


def export_edges(
    detector: EdgeDetector,
    truth_dir: Path,
    truths: Sequence[Path],
    out: Path,
    images_dir: str | Path | None = None,
    progress: Progress | None = None,
    workers: int = 1,
) -> PredictionFolder:
    """Write the edges of every image that has one of these truths, 16 bits a pixel, in `workers` processes.

    Raises DataError when a picture is missing or `out` holds predictions of another configuration.
    """
    pictures = bsds_pictures(truth_dir, images_dir)
    for truth in truths:
        if truth.stem not in pictures:
            raise DataError(f"{truth}: its picture was not found; allowed: images_dir where {truth.stem}.jpg lies")
    config = {"model": detector.describe(), "data": str(truth_dir.resolve())}
    predictions = PredictionFolder.create(out, config, ".png")
    work = _DetectWork(detector, predictions)
    missing = [pictures[truth.stem] for truth in truths if not predictions.has(truth.name)]
    done = len(truths) - len(missing)
    if progress is not None and done:
        progress("edges", done, len(truths))
    for _ in work_in_processes(_detect, work, missing, workers):
        done += 1
        if progress is not None:
            progress("edges", done, len(truths))
    return predictions


@dataclass(frozen=True)
class _DetectWork:
    detector: EdgeDetector
    predictions: PredictionFolder


def _detect(work: _DetectWork, picture: Path) -> None:
    edges = work.detector.detect(picture)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(edges * _FULL_SCALE).astype(np.uint16)).save(buffer, format="PNG")
    write_bytes_atomically(work.predictions.image_path(picture.name), buffer.getvalue())


@dataclass(frozen=True)
class _CountJob:
    edges_path: Path
    truth_path: Path
    counts_path: Path


def count_edges(
    predictions: PredictionFolder,
    truths: Sequence[Path],
    out: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[EdgeCounts]:
    """Match each image's exported edges with its annotators, in `workers` processes; counts in the truths' order.

    An image whose edges and truth are what they were when it was counted is read back from `out`/NAME.json.
    """
    out.mkdir(parents=True, exist_ok=True)
    jobs = [_CountJob(predictions.image_path(truth.name), truth, out / f"{truth.stem}.json") for truth in truths]
    for done, _ in enumerate(work_in_processes(_count, thresholds(), jobs, workers), start=1):
        if progress is not None:
            progress("matching", done, len(jobs))
    return [EdgeCounts.from_rows(read_json(job.counts_path)["counts"]) for job in jobs]


def read_edges(path: str | Path) -> np.ndarray:
    """Edges (H, W) float32 in [0, 1] as `export_edges` wrote them. Raises DataError when the file is anything else."""
    try:
        with Image.open(path) as picture:
            values = np.array(picture)
    except Exception as error:  # decoders of broken files raise nearly anything
        raise DataError(f"{path}: cannot be read as an edge map ({error})") from error
    if values.ndim != 2 or values.dtype != np.uint16:
        raise DataError(f"{path}: is {values.dtype} of shape {values.shape}; allowed: 16 bits a pixel, (H, W)")
    return values.astype(np.float32) / _FULL_SCALE


def _count(levels: np.ndarray, job: _CountJob) -> None:
    digest = _digest([job.edges_path, job.truth_path])
    if job.counts_path.exists():
        kept = read_json(job.counts_path)
        if isinstance(kept, dict) and kept.get("digest") == digest:
            return
    edges = read_edges(job.edges_path)
    boundaries = [annotation.boundary_hw for annotation in read_bsds_truth(job.truth_path)]
    if boundaries[0].shape != edges.shape:
        raise DataError(f"{job.edges_path}: is {edges.shape} (h, w); allowed: the truth's {boundaries[0].shape}")
    counts = count_image(edges, boundaries, levels)
    write_text_atomically(job.counts_path, json.dumps({"digest": digest, "counts": counts.rows().tolist()}))


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256(f"{THRESHOLD_COUNT} thresholds".encode())
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
    return digest.hexdigest()


def _three_digits(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}".lstrip("0") if figure < 1 else f"{figure:.3f}"
