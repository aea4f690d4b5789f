"""`anymask everything`: the masks of everything in photographs, one or a folder of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from anymask.data.formats import Pictures
    from anymask.generator.folder import FolderRun, Job, Outcome

PICTURES: dict[str, Pictures] = {"copy": "copy", "link": "link", "none": "none"}


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
    model: Annotated[str, typer.Option(help="Model by name, or a checkpoint that names its own.")] = "tiny",
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
    if pictures not in PICTURES:
        raise typer.BadParameter(f"{pictures!r} is none of {', '.join(PICTURES)}", param_hint="--pictures")
    run = FolderRun(out, format_name, model, checkpoint, device, options, roi, PICTURES[pictures], overlay)
    started = time.perf_counter()
    outcomes, done_before = _work(run, jobs, workers, overwrite, is_quiet=json_output)
    summary = _summary(run, outcomes, done_before, time.perf_counter() - started)
    if json_output:
        typer.echo(json.dumps(summary, indent=2))
    else:
        _print_summary(summary)
    if summary["skipped"]:
        raise typer.Exit(1)


def _work(run: FolderRun, jobs: list[Job], workers: int, overwrite: bool, is_quiet: bool) -> tuple[list[Outcome], int]:
    """Do what is not done yet; the outcomes, and how many images were done before."""
    from anymask.generator.folder import work_in_turn, work_side_by_side

    model = run.load_model()
    run.prepare(model, jobs, overwrite)
    to_do = [job for job in jobs if not run.is_done(job)]
    outcomes: list[Outcome] = []
    with _report(len(to_do), is_quiet) as report:
        if workers == 1 or len(to_do) < 2:
            results = work_in_turn(run, model, to_do, report.points)
        else:
            del model
            results = work_side_by_side(run, to_do, workers)
        for outcome in results:
            outcomes.append(outcome)
            report.image(outcome)
    if outcomes or run.format_name == "coco":
        run.finish(jobs)
    return outcomes, len(jobs) - len(to_do)


class _Report:
    """A bar with an estimate on a terminal, a line for each image elsewhere; both on standard error."""

    def __init__(self, total: int, bars: Progress, console: Console | None) -> None:
        self._bars, self._console = bars, console
        self._task = bars.add_task("images", total=total)
        self._done = 0

    def points(self, done: int, total: int) -> None:
        """So much of the image in work is done."""
        self._bars.update(self._task, completed=self._done + min(0.99, done / total))

    def image(self, outcome: Outcome) -> None:
        """An image is done with."""
        self._done += 1
        self._bars.update(self._task, completed=self._done)
        if self._console is not None:
            found = outcome.reason or f"{outcome.masks} masks, {outcome.seconds:.1f} s"
            self._console.print(f"{outcome.job.name}: {found}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _report(total: int, is_quiet: bool) -> Iterator[_Report]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield _Report(total, bars, None if console.is_terminal or is_quiet else console)


def _summary(run: FolderRun, outcomes: list[Outcome], done_before: int, seconds: float) -> dict[str, Any]:
    written = [outcome for outcome in outcomes if outcome.reason is None]
    return {
        "out": str(run.out),
        "format": run.format_name,
        "images": len(written),
        "masks": sum(outcome.masks for outcome in written),
        "done_before": done_before,
        "seconds": round(seconds, 3),
        "skipped": [
            {"image": str(outcome.job.path), "reason": outcome.reason} for outcome in outcomes if outcome.reason
        ],
    }


def _print_summary(summary: dict[str, Any]) -> None:
    count, masks, seconds = summary["images"], summary["masks"], summary["seconds"]
    if count:
        each = f", {masks / count:.0f} masks and {seconds / count:.1f} s an image"
        typer.echo(f"{masks:,} masks of {_images(count)} in {summary['out']} ({summary['format']}){each}")
    if summary["done_before"]:
        typer.echo(f"{_images(summary['done_before'])} done before, in {summary['out']}")
    if summary["skipped"]:
        typer.echo(f"{_images(len(summary['skipped']))} skipped:", err=True)
        for entry in summary["skipped"]:
            typer.echo(f"  {entry['reason']}", err=True)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
