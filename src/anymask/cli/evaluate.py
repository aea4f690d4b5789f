"""`anymask evaluate`: judge a model on images whose masks are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from anymask.evaluation.point_scores import PointResults
    from anymask.evaluation.points import Progress as ImageProgress
    from anymask.evaluation.protocol import Segmentable

app = typer.Typer(no_args_is_help=True, help="Judge a model on images whose masks are known.")


@app.callback()
def evaluate() -> None:
    """Judge a model on images whose masks are known."""


@app.command()
def points(
    data: Annotated[list[Path], typer.Argument(help="Folders with NAME.json (SA-1B's layout) beside each image.")],
    model: Annotated[str, typer.Option(help="Model by name, or a checkpoint that names its own.")] = "tiny",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to load instead of the model's own.")] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Judge what needs no learned weights instead of a model.")
    ] = False,
    first_point: Annotated[
        str, typer.Option(help="centre: of the object; random: any pixel of it.", metavar="centre|random")
    ] = "centre",
    clicks: Annotated[str, typer.Option(help="Numbers of clicks to report, rising.")] = "1,2,3,5,9",
    boxes: Annotated[bool, typer.Option(help="Also ask for each object by its box.")] = True,
    feedback: Annotated[
        bool, typer.Option(help="Give the last answer's logits back with the second click and later ones.")
    ] = True,
    max_images: Annotated[
        int | None, typer.Option(min=1, help="At most so many images of a set, evenly spaced.")
    ] = None,
    max_objects: Annotated[
        int | None, typer.Option(min=1, help="At most so many objects of an image, evenly spaced.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random first clicks.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for predictions and results.")] = Path("evaluation"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Mean IoU after 1, 2, 3, 5 and 9 simulated clicks on each object, and for its box.

    Writes predictions/, results.json, results.md and points.png; a run that was broken off goes on where it
    stopped.
    """
    from anymask.evaluation.point_scores import evaluate_points
    from anymask.evaluation.points import PointSettings

    if baseline and checkpoint is not None:
        raise typer.BadParameter("takes no weights; leave out --checkpoint", param_hint="--baseline")
    settings = PointSettings(
        clicks=_parse_clicks(clicks),
        first_point=first_point,
        boxes=boxes,
        feedback=feedback and not baseline,  # the baseline has no use for logits
        max_images=max_images,
        max_objects=max_objects,
        seed=seed,
    )
    judged = _baseline() if baseline else _predictor(model, checkpoint, device)
    with _progress_bars() as progress:
        results = evaluate_points(judged, data, out, settings, progress=progress)
    if json_output:
        typer.echo(json.dumps(results.to_json()))
    else:
        _print_table(results, out)


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


def _predictor(name: str, checkpoint: Path | None, device: str) -> Segmentable:
    from anymask.model.zoo import load_model
    from anymask.predictor import Predictor

    return Predictor(load_model(name, checkpoint=checkpoint, device=device))


@contextmanager
def _progress_bars() -> Iterator[ImageProgress]:
    """A bar for each data set, on standard error; nothing where that is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield update


def _print_table(results: PointResults, out: Path) -> None:
    header, rows = results.table()
    table = Table(title="Mean IoU (%) by number of clicks", box=box.SIMPLE_HEAD, padding=0)
    for index, heading in enumerate(header):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        if row is rows[-1]:
            table.add_section()
        table.add_row(*row)
    Console().print(table)
    typer.echo(f"Written to {out}")
