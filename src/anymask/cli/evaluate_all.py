"""`anymask evaluate all`: every experiment that masks alone allow, on the same sets, with one page of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from anymask.cli.evaluate_common import (
    CheckpointOption,
    DeviceOption,
    EmbeddingsOption,
    JsonOption,
    MaxImagesOption,
    ModelOption,
    OutOption,
    WorkersOption,
    load_predictor,
    print_table,
    progress_bars,
)


def evaluate_all(
    data: Annotated[list[Path], typer.Argument(help="Data sets in SA-1B's layout.")],
    zero_shot: Annotated[
        list[str] | None,
        typer.Option(help="A set whose like the model was not trained on, by its name, such as wbc/zeroshot."),
    ] = None,
    edges: Annotated[
        Path | None, typer.Option(help="BSDS ground truth, such as BSDS500/groundTruth/test [default: no edges].")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="What `evaluate points` wrote for another model, to compare with.")
    ] = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Images of each set for instances and proposals, evenly spaced.")
    ] = 20,
    points_per_side: Annotated[int, typer.Option(min=1, help="Of the proposals' grid; the paper's is 64.")] = 16,
    max_images: MaxImagesOption = None,
    max_objects: Annotated[int | None, typer.Option(min=1, help="At most so many objects of an image.")] = None,
    model: ModelOption = "tiny",
    checkpoint: CheckpointOption = None,
    embeddings: EmbeddingsOption = None,
    workers: WorkersOption = 1,
    out: OutOption = Path("evaluation"),
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Points, boxes, classes, instances, proposals and edges of one model, on one page.

    Writes a folder for each experiment, as it does alone, and results.json and results.md; a run that was broken off
    goes on where it stopped.
    """
    from anymask.evaluation.report import finite
    from anymask.evaluation.suite import SuiteSettings, evaluate_suite

    settings = SuiteSettings(tuple(zero_shot or ()), sample, points_per_side, max_images, max_objects, edges, against)
    judged = load_predictor(model, checkpoint, device)
    with progress_bars() as progress:
        results = evaluate_suite(judged, data, out, settings, embeddings, workers, progress)
    if json_output:
        typer.echo(json.dumps(finite(results.to_json())))
        return
    print_table("Mean IoU (%)", *results.points_table())
    print_table("Instances, true boxes (%)", *results.instances_table(), has_summary=False)
    print_table("Proposals, average recall (%)", *results.proposals_table(), has_summary=False)
    if results.edges is not None:
        print_table(f"Edges on {results.edges.images} images", *results.edges.table())
    for name, seconds in results.seconds.items():
        typer.echo(f"{name}: {seconds / 60:.1f} minutes")
    typer.echo(f"Written to {out}")
