"""`anymask segment`: prompts on one photograph, or a detector's boxes on many; masks and pictures out."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from anymask.cli.segment_boxes import ManyObjects, segment_boxes
from anymask.errors import PromptError

if TYPE_CHECKING:
    import numpy as np

    from anymask.prompts import Prompt
    from anymask.records import Masks

MANY = "Many objects"


def segment(
    image: Annotated[
        Path, typer.Argument(help="The photograph; with --boxes also a folder of them.", metavar="IMAGE|DIR")
    ],
    point: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y[:0|1]", help="A click in pixels; :0 for background. `centre` for the middle."),
    ] = None,
    box: Annotated[str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="A box around the object.")] = None,
    mask: Annotated[Path | None, typer.Option(help="A rough mask, a picture of the image's size.")] = None,
    roi: Annotated[Path | None, typer.Option(help="A picture: only its bright pixels may be in a mask.")] = None,
    multimask: Annotated[
        bool | None, typer.Option(help="Three answers, or one. Left out: three for a lone point or box.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model by name, a checkpoint, or a folder of graphs.")] = "tiny",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to load instead of the model's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    cutout: Annotated[bool, typer.Option("--cutout", help="Also write the object on a transparent ground.")] = False,
    boxes: Annotated[
        Path | None,
        typer.Option(help="A detector's boxes, JSON: plain or COCO. Each becomes a mask.", rich_help_panel=MANY),
    ] = None,
    coco_images: Annotated[
        Path | None,
        typer.Option(help="The COCO data set that a results list in --boxes belongs to.", rich_help_panel=MANY),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Leave out boxes that score less.", rich_help_panel=MANY)
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Feed each mask back once: twice the time.", rich_help_panel=MANY)
    ] = False,
    format_name: Annotated[
        str,
        typer.Option("--format", help="Of the masks.", metavar="sa1b|coco|yolo|png|labelme", rich_help_panel=MANY),
    ] = "sa1b",
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Folders inside folders too.", rich_help_panel=MANY)
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, each with a model of its own.", rich_help_panel=MANY)
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do again what is done.", rich_help_panel=MANY)
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("out"),
    json_output: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Segment the object that points, a box or a rough mask tell of.

    Writes NAME.overlay.png, NAME.mask-N.png (best first) and NAME.json (SA-1B's layout) into the output folder.

    With --boxes all objects of one photograph or a folder: masks with the boxes' labels and scores in the wanted
    format, and overlays/NAME.jpg. A run that was broken off goes on where it stopped.
    """
    if boxes is not None:
        prompts = {"--point": point, "--box": box, "--mask": mask, "--multimask": multimask, "--cutout": cutout or None}
        for option, value in prompts.items():
            if value is not None:
                raise typer.BadParameter("cannot be used together with --boxes", param_hint=option)
        many = ManyObjects(boxes, coco_images, min_score, refine, roi)
        segment_boxes(
            image, many, out, format_name, recursive, workers, overwrite, model, checkpoint, device, json_output
        )
        return
    if image.is_dir():
        raise typer.BadParameter("is a folder; give --boxes, or one photograph", param_hint="IMAGE")
    import anymask

    started = time.perf_counter()
    pixels = anymask.read_image(image)
    prompt = parse_prompt(pixels.shape[:2], point or [], box, mask, roi, multimask)
    network = anymask.load_model(model, checkpoint=checkpoint, device=device)
    loaded = time.perf_counter()
    predictor = anymask.Predictor(network)
    predictor.set_image(pixels)
    encoded = time.perf_counter()
    masks = predictor.predict_batch([prompt])[0]
    _ = masks.best
    decoded = time.perf_counter()
    files = write_results(out, image, pixels, prompt, masks, is_cutout=cutout)
    seconds = {"load": loaded - started, "encode": encoded - loaded, "decode": decoded - encoded}
    if json_output:
        result = {"image": str(image), "model": network.name, "scores": masks.scores.tolist()}
        typer.echo(json.dumps({**result, "seconds": seconds, "files": [str(path) for path in files]}, indent=2))
    else:
        print_results(image, masks, seconds, files)


def parse_prompt(
    size_hw: tuple[int, ...],
    points: list[str],
    box: str | None,
    mask: Path | None,
    roi: Path | None,
    multimask: bool | None,
) -> Prompt:
    """The command line's words as a prompt; raises `PromptError` for words that are not numbers."""
    from anymask.prompts import Prompt

    clicks = [_parse_point(text, size_hw) for text in points]
    return Prompt(
        points=[(x, y) for x, y, _ in clicks] or None,
        labels=[label for _, _, label in clicks] or None,
        box=None if box is None else _parse_numbers(box, 4, "--box", "x0,y0,x1,y1"),
        mask=None if mask is None else _read_mask(mask),
        valid_mask=None if roi is None else _read_mask(roi),
        multimask=multimask,
    )


def _parse_point(text: str, size_hw: tuple[int, ...]) -> tuple[float, float, int]:
    place, _, label = text.partition(":")
    if label not in ("", "0", "1"):
        raise PromptError(f"--point {text!r}: the label after ':' is {label!r}; it must be 0 or 1")
    if place == "centre":
        return size_hw[1] // 2, size_hw[0] // 2, int(label or 1)
    x, y = _parse_numbers(place, 2, "--point", "x,y or x,y:0")
    return x, y, int(label or 1)


def _parse_numbers(text: str, count: int, option: str, form: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise PromptError(f"{option} {text!r} is not {count} numbers; write {form}")
    return numbers


def _read_mask(path: Path) -> np.ndarray:
    """A picture as an (H, W) bool mask: brighter than half."""
    from anymask.data.images import read_image

    return read_image(path).max(axis=2) > 127


def write_results(
    folder: Path, image: Path, pixels: np.ndarray, prompt: Prompt, masks: Masks, *, is_cutout: bool
) -> list[Path]:
    """Overlay, one PNG per mask and the SA-1B JSON; returns their paths."""
    import numpy as np

    from anymask.data.sa1b import write_sa1b
    from anymask.render import cut_out, draw_overlay

    folder.mkdir(parents=True, exist_ok=True)
    overlay = draw_overlay(
        pixels,
        [masks.best],
        points_xy=None if prompt.points is None else np.asarray(prompt.points),
        labels=None if prompt.labels is None else np.asarray(prompt.labels),
        box_xyxy=None if prompt.box is None else np.asarray(prompt.box),
    )
    pictures = {f"{image.stem}.overlay.png": overlay}
    for index, mask in enumerate(masks):
        pictures[f"{image.stem}.mask-{index + 1}.png"] = mask.astype(np.uint8) * 255
    if is_cutout:
        pictures[f"{image.stem}.cutout.png"] = cut_out(pixels, masks.best)
    for name, picture in pictures.items():
        _write_png(folder / name, picture)
    record = folder / f"{image.stem}.json"
    scores = [{"predicted_iou": float(score)} for score in masks.scores]
    write_sa1b(record, image.name, (pixels.shape[0], pixels.shape[1]), masks.masks, scores)
    return [*(folder / name for name in pictures), record]


def _write_png(path: Path, picture: np.ndarray) -> None:
    from PIL import Image

    partial = path.with_name(path.name + ".partial")
    Image.fromarray(picture).save(partial, format="PNG", compress_level=3)
    os.replace(partial, path)


def print_results(image: Path, masks: Masks, seconds: dict[str, float], files: list[Path]) -> None:
    console = Console()
    console.print(str(image), style="bold", soft_wrap=True)
    table = Table("mask", "predicted IoU", "pixels", "share of image")
    for index, (mask, score) in enumerate(zip(masks, masks.scores, strict=True)):
        table.add_row(str(index + 1), f"{score:.3f}", f"{mask.sum():,}", f"{mask.mean():.1%}")
    console.print(table)
    console.print(", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items()))
    for path in files:
        console.print(f"wrote {path}", style="dim", soft_wrap=True)
