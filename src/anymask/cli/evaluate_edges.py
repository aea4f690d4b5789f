"""`anymask evaluate edges`: edges from masks, judged as BSDS500 judges them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anymask.cli.evaluate_common import (
    CheckpointOption,
    DeviceOption,
    EmbeddingsOption,
    ImagesDirOption,
    JsonOption,
    MaxImagesOption,
    ModelOption,
    OutOption,
    WorkersOption,
    load_judged,
    print_table,
    progress_bars,
    refuse_weights,
)

if TYPE_CHECKING:
    from anymask.evaluation.edges.experiment import EdgeDetector


def edges(
    truth: Annotated[Path, typer.Argument(help="Folder of BSDS ground truth, such as BSDS500/groundTruth/test.")],
    images_dir: ImagesDirOption = None,
    model: ModelOption = "tiny",
    checkpoint: CheckpointOption = None,
    baseline: Annotated[bool, typer.Option("--baseline", help="Judge Canny's edges instead of a model's.")] = False,
    embeddings: EmbeddingsOption = None,
    max_images: MaxImagesOption = None,
    workers: WorkersOption = 1,
    out: OutOption = Path("evaluation"),
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """ODS, OIS, AP and R50 of the edges of all masks of a 16x16 grid of points.

    Writes predictions/, counts/, results.json, results.md and edges.png; a run that was broken off goes on where it
    stopped.
    """
    from anymask.evaluation.edges.experiment import evaluate_edges

    refuse_weights(baseline, checkpoint)
    detector = _canny() if baseline else _model_edges(model, checkpoint, device, embeddings)
    with progress_bars() as progress:
        results = evaluate_edges(detector, truth, out, images_dir, max_images, workers, progress)
    if json_output:
        typer.echo(json.dumps(asdict(results)))
    else:
        print_table(f"Edges on {results.images} images", *results.table())
        typer.echo(f"Written to {out}")


def _canny() -> EdgeDetector:
    from anymask.evaluation.edges.canny import CannyDetector

    return CannyDetector()


def _model_edges(name: str, checkpoint: Path | None, device: str, embeddings: Path | None) -> EdgeDetector:
    from anymask.evaluation.edges.experiment import ModelEdges

    return ModelEdges(load_judged(name, checkpoint, device), embeddings=embeddings)
