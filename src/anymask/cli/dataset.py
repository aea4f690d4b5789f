"""`anymask dataset`: check folders of images and masks, convert them between formats, and describe them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from anymask.data.annotated import AnnotatedImage
    from anymask.data.statistics import DatasetStatistics

app = typer.Typer(no_args_is_help=True, help="Check, convert and describe folders of images and masks.")

Source = Annotated[Path, typer.Argument(help="Folder of a data set, or a COCO file.", metavar="DIR")]
From = Annotated[str, typer.Option("--from", help="auto, sa1b, coco, yolo, png or labelme.", metavar="FORMAT")]
ImagesDir = Annotated[Path | None, typer.Option(help="Where the pictures lie, if not where the format has them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def validate(
    source: Source,
    from_format: From = "auto",
    images_dir: ImagesDir = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every picture too, not only its header.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say everything that is broken, a line for each; exit code 1 when something is.

    Finds unreadable files, broken masks, areas and boxes that are not the mask's own, empty masks, ids that
    come twice, missing pictures and pictures of another size.
    """
    from anymask.data.validation import validate_dataset

    with _counting("images checked") as count:
        result = validate_dataset(source, from_format, images_dir, decode_pictures=deep, on_image=count)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        for problem in result.problems:
            typer.echo(problem)
        found = f"{len(result.problems)} problems" if result.problems else "no problems"
        typer.echo(f"{source} ({result.format}): {result.images} images, {result.masks} masks, {found}")
    if result.problems:
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Folder of a data set, or a COCO file.", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="Folder to write.", metavar="DST")],
    to: Annotated[str, typer.Option("--to", help="sa1b, coco, yolo, png or labelme.", metavar="FORMAT")],
    from_format: From = "auto",
    images_dir: ImagesDir = None,
    pictures: Annotated[str, typer.Option(help="copy, link (hard links) or none.", metavar="copy|link|none")] = "copy",
    segmentation: Annotated[
        str | None, typer.Option(help="Of COCO: rle (exact) or polygon.", metavar="rle|polygon")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Pixels to thin polygons out by: COCO 0, YOLO 0, LabelMe 1 if left out."),
    ] = None,
    overlays: Annotated[bool, typer.Option("--overlays", help="Also draw each image into overlays/NAME.jpg.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that holds something.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rewrite a data set in another format: masks, classes, scores and pictures, as far as it holds them.

    sa1b, coco and png are exact. yolo and labelme hold polygons: exact with --tolerance 0.
    """
    from anymask.data.formats import convert_dataset

    images = masks = 0

    def add(image: AnnotatedImage) -> None:
        nonlocal images, masks
        images, masks = images + 1, masks + len(image.records)
        count(image)

    with _counting("images converted") as count:
        convert_dataset(
            source,
            target,
            to,
            from_format,
            images_dir,
            overwrite,
            add,
            pictures=pictures,
            overlays=overlays,
            segmentation=segmentation,
            tolerance=tolerance,
        )
    if as_json:
        typer.echo(json.dumps({"target": str(target), "format": to, "images": images, "masks": masks}))
    else:
        typer.echo(f"Wrote {masks} masks on {images} images to {target} ({to})")


@app.command()
def stats(
    source: Source,
    from_format: From = "auto",
    images_dir: ImagesDir = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for statistics.png and statistics.json.")] = Path(
        "out"
    ),
    as_json: AsJson = False,
) -> None:
    """Masks per image, mask sizes, concavity and where masks lie: the paper's figures of a data set."""
    from anymask.data.formats import read_dataset
    from anymask.data.sa1b import write_text_atomically
    from anymask.data.statistics import collect_statistics
    from anymask.evaluation.dataset_plots import plot_dataset

    with _counting("images read") as count:
        statistics = collect_statistics(_each(read_dataset(source, from_format, images_dir), count))
    text = json.dumps(statistics.to_json(), indent=2)
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(out / "statistics.json", text + "\n")
    plot_dataset(statistics, out / "statistics.png", source.resolve().name)
    if as_json:
        typer.echo(text)
    else:
        _print_statistics(statistics, source)
        typer.echo(f"Written to {out}")


def _print_statistics(statistics: DatasetStatistics, source: Path) -> None:
    facts = statistics.to_json()
    table = Table("", "mean", "median", "smallest", "largest", title=str(source), box=None)
    for name, key in (
        ("masks per image", "masks_per_image"),
        ("relative size", "relative_size"),
        ("concavity", "concavity"),
    ):
        values = [facts[key][part] for part in ("mean", "median", "min", "max")]
        table.add_row(name, *("-" if value is None else f"{value:.4g}" for value in values))
    console = Console()
    console.print(table)
    console.print(f"{facts['masks']:,} masks on {facts['images']:,} images")
    named = {name: number for name, number in facts["categories"].items() if name}
    if named:
        most = ", ".join(f"{name} {number:,}" for name, number in list(named.items())[:8])
        console.print(f"{len(named)} classes: {most}{', ...' if len(named) > 8 else ''}")


def _each(images: Iterator[AnnotatedImage], count: Callable[[AnnotatedImage], None]) -> Iterator[AnnotatedImage]:
    for image in images:
        count(image)
        yield image


@contextmanager
def _counting(text: str) -> Iterator[Callable[[AnnotatedImage], None]]:
    """A running count on standard error; nothing where that is not a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda image: bar.advance(task)
