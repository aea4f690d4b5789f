"""`anymask evaluate proposals`: average recall of everything in an image."""

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
    load_judged,
    print_table,
    progress_bars,
)


def proposals(
    truth: TruthArgument,
    images_dir: ImagesDirOption = None,
    model: ModelOption = "tiny",
    checkpoint: CheckpointOption = None,
    points_per_side: Annotated[int, typer.Option(min=1, help="The grid has its square of points.")] = 64,
    box_nms: Annotated[float, typer.Option(min=0, max=1, help="IoU of boxes above which the lesser mask goes.")] = 0.9,
    max_proposals: Annotated[int, typer.Option(min=1, help="The best so many of an image.")] = 1000,
    max_images: MaxImagesOption = None,
    embeddings: EmbeddingsOption = None,
    workers: WorkersOption = 1,
    out: OutOption = Path("evaluation/proposals"),
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Average recall of the best 10, 100 and 1000 automatic masks of an image, as masks and as boxes.

    By size, and by frequency where the categories have one (LVIS). Writes predictions/, results.json,
    results.md and proposals.png; a run that was broken off goes on where it stopped.
    """
    from anymask.evaluation.proposals import GeneratorProposer, ProposalSettings, evaluate_proposals
    from anymask.evaluation.report import finite
    from anymask.evaluation.truth import open_truth

    settings = ProposalSettings(
        points_per_side=points_per_side, box_nms_thresh=box_nms, max_proposals=max_proposals, max_images=max_images
    )
    true_set = open_truth(truth, images_dir)
    proposer = GeneratorProposer(load_judged(model, checkpoint, device), settings, embeddings)
    with progress_bars() as progress:
        results = evaluate_proposals(proposer, true_set, out, settings, progress, workers)
    if json_output:
        typer.echo(json.dumps(finite(asdict(results))))
    else:
        print_table(f"Average recall (%) on {results.data}", *results.table(), has_summary=False)
        print_table("Beside published figures", *results.published_table())
        typer.echo(f"Written to {out}")
