"""`anymask evaluate instances`: mask AP of a detector's boxes turned into masks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

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
    TruthArgument,
    WorkersOption,
    load_predictor,
    print_table,
    progress_bars,
)


def instances(
    truth: TruthArgument,
    detections: Annotated[
        Path | None, typer.Option(help="A detector's boxes, JSON in COCO's results format [default: the true boxes].")
    ] = None,
    images_dir: ImagesDirOption = None,
    model: ModelOption = "tiny",
    checkpoint: CheckpointOption = None,
    refine: Annotated[bool, typer.Option(help="Feed the best mask back once, with the box.")] = True,
    max_per_image: Annotated[int, typer.Option(min=1, help="The most confident so many boxes of an image.")] = 300,
    max_images: MaxImagesOption = None,
    embeddings: EmbeddingsOption = None,
    workers: WorkersOption = 1,
    out: OutOption = Path("evaluation/instances"),
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Mask AP with the boxes of any detector, or with the true ones, by the rules of COCO or of LVIS.

    Categories that have frequencies mean LVIS. Writes predictions/, coco_results.json, results.json, results.md
    and instances.png; a run that was broken off goes on where it stopped.
    """
    from anymask.errors import DataError
    from anymask.evaluation.instance_scores import evaluate_instances
    from anymask.evaluation.instances import Detections, InstanceSettings, TrueBoxes
    from anymask.evaluation.report import finite
    from anymask.evaluation.truth import open_truth

    true_set = open_truth(truth, images_dir)
    if detections is not None and not true_set.categories:
        raise DataError(f"{truth}: has no categories, which --detections needs; allowed: a COCO or LVIS file")
    boxes = TrueBoxes() if detections is None else Detections(detections)
    settings = InstanceSettings(refine=refine, max_per_image=max_per_image, max_images=max_images)
    judged = load_predictor(model, checkpoint, device)
    with progress_bars() as progress:
        results = evaluate_instances(judged, true_set, boxes, out, settings, embeddings, progress, workers)
    if json_output:
        typer.echo(json.dumps(finite(asdict(results))))
    else:
        print_table(f"Mask AP (%) on {results.data}, {results.rules}'s rules", *results.table(), has_summary=False)
        typer.echo(f"Written to {out}")
