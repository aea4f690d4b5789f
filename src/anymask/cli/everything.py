"""`anymask everything`: the masks of everything in photographs, one or a folder of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anymask.cli.folder_run import checked_pictures, do_run


def everything(
    images: Annotated[list[Path], typer.Argument(help="Photographs, or folders of them.", metavar="IMAGE|DIR...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("out"),
    format_name: Annotated[
        str, typer.Option("--format", help="What to write.", metavar="sa1b|coco|yolo|png|labelme")
    ] = "sa1b",
    recursive: Annotated[bool, typer.Option("--recursive", help="Folders inside folders too.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a model of its own.")] = 1,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw each image into overlays/NAME.jpg.")] = False,
    pictures: Annotated[
        str, typer.Option(help="Put the photographs beside their masks.", metavar="copy|link|none")
    ] = "copy",
    points_per_side: Annotated[int, typer.Option(min=1, help="The grid has its square of points.")] = 32,
    crop_layers: Annotated[int, typer.Option(min=0, help="Also look at 2x2 crops, with 2 at 4x4 ones too.")] = 0,
    pred_iou: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least predicted IoU, if not the model's.")
    ] = None,
    stability: Annotated[float | None, typer.Option(min=0, max=1, help="Least stability, if not the model's.")] = None,
    min_area: Annotated[float, typer.Option(min=0, help="Least area of a mask, in pixels.")] = 0,
    max_area: Annotated[float | None, typer.Option(min=0, help="Largest area of a mask, in pixels.")] = None,
    max_masks: Annotated[int | None, typer.Option(min=1, help="The best so many of an image.")] = None,
    roi: Annotated[Path | None, typer.Option(help="A picture: only its bright pixels may be in a mask.")] = None,
    model: Annotated[str, typer.Option(help="Model by name, a checkpoint, or a folder of graphs.")] = "tiny",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to load instead of the model's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    memory_mb: Annotated[int, typer.Option(min=1, help="Memory to decode in, beside model and image.")] = 512,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do again what is done.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Segment everything: a grid of points, the masks they hit, doubtful ones and duplicates left out.

    What is done already is skipped, so that a run that was broken off goes on where it stopped. An image that
    cannot be read is reported at the end, with exit code 1, and the others are done all the same.
    """
    from anymask.data.formats import find_format
    from anymask.generator.finders import Everything
    from anymask.generator.folder import FolderRun, find_jobs

    find_format(format_name)
    jobs = find_jobs(images, recursive, out)
    options = {
        "points_per_side": points_per_side,
        "crop_n_layers": crop_layers,
        "pred_iou_thresh": pred_iou,
        "stability_score_thresh": stability,
        "min_area": min_area,
        "max_area": max_area,
        "max_masks": max_masks,
        "memory_mb": memory_mb,
    }
    finder = Everything(options, roi)
    run = FolderRun(out, finder, format_name, model, checkpoint, device, checked_pictures(pictures), overlay)
    do_run(run, jobs, workers, overwrite, json_output)
