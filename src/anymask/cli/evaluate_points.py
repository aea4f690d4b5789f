"""`anymask evaluate points`: mean IoU after simulated clicks."""

from __future__ import annotations

import json
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
    load_predictor,
    print_table,
    progress_bars,
    refuse_weights,
)

if TYPE_CHECKING:
    from anymask.evaluation.protocol import Segmentable


def points(
    data: Annotated[list[Path], typer.Argument(help="Data sets: folders or COCO/LVIS files.")],
    layout: Annotated[
        str,
        typer.Option(
            help="Theirs: sa1b, coco, lvis, yolo, labelme, png, bsds (.mat), instances (a folder of masks for each "
            "image), semantic (label maps, whose connected regions are the objects).",
        ),
    ] = "auto",
    images_dir: ImagesDirOption = None,
    model: ModelOption = "tiny",
    checkpoint: CheckpointOption = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Judge what needs no learned weights instead of a model.")
    ] = False,
    first_point: Annotated[
        str, typer.Option(help="centre: of the object; random: any pixel of it.", metavar="centre|random")
    ] = "centre",
    clicks: Annotated[str, typer.Option(help="Numbers of clicks to report, rising.")] = "1,2,3,5,9",
    boxes: Annotated[bool, typer.Option(help="Also ask for each object by its box.")] = True,
    box_click: Annotated[bool, typer.Option("--box-click", help="Also correct the box's answer with a click.")] = False,
    feedback: Annotated[
        bool, typer.Option(help="Give the last answer's logits back with the second click and later ones.")
    ] = True,
    max_images: MaxImagesOption = None,
    max_objects: Annotated[
        int | None, typer.Option(min=1, help="At most so many objects of an image, evenly spaced.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random first clicks.")] = 0,
    embeddings: EmbeddingsOption = None,
    workers: WorkersOption = 1,
    out: OutOption = Path("evaluation"),
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Mean IoU after 1, 2, 3, 5 and 9 simulated clicks on each object, and for its box.

    Writes predictions/, results.json, results.md and points.png; a run that was broken off goes on where it
    stopped.
    """
    from anymask.evaluation.point_scores import evaluate_points
    from anymask.evaluation.points import PointSettings

    refuse_weights(baseline, checkpoint)
    settings = PointSettings(
        clicks=_parse_clicks(clicks),
        first_point=first_point,
        boxes=boxes,
        box_click=box_click,
        feedback=feedback and not baseline,  # the baseline has no use for logits
        max_images=max_images,
        max_objects=max_objects,
        seed=seed,
    )
    judged = _baseline() if baseline else load_predictor(model, checkpoint, device)
    with progress_bars() as progress:
        results = evaluate_points(
            judged,
            data,
            out,
            settings,
            progress=progress,
            embeddings=embeddings,
            layout=layout,
            images_dir=images_dir,
            workers=workers,
        )
    if json_output:
        typer.echo(json.dumps(results.to_json()))
    else:
        print_table("Mean IoU (%) by number of clicks", *results.table())
        typer.echo(f"Written to {out}")


def _parse_clicks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers such as 1,2,3,5,9", param_hint="--clicks"
        ) from error


def _baseline() -> Segmentable:
    from anymask.evaluation.baseline import RegionBaseline

    return RegionBaseline()
