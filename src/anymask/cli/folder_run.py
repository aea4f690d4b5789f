"""What commands over many images share: doing the work, a bar meanwhile, the summary at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from anymask.data.formats import Pictures
    from anymask.generator.finders import Job
    from anymask.generator.folder import FolderRun, Outcome

PICTURES: dict[str, Pictures] = {"copy": "copy", "link": "link", "none": "none"}


def checked_pictures(name: str) -> Pictures:
    """The value of `--pictures`."""
    if name not in PICTURES:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(PICTURES)}", param_hint="--pictures")
    return PICTURES[name]


def do_run(
    run: FolderRun, jobs: list[Job], workers: int, overwrite: bool, json_output: bool, notes: list[str] | None = None
) -> None:
    """Do what is not done yet and print a summary, then the notes; exit code 1 when an image was skipped."""
    started = time.perf_counter()
    outcomes, done_before = _work(run, jobs, workers, overwrite, is_quiet=json_output)
    summary = _summary(run, outcomes, done_before, time.perf_counter() - started) | ({"notes": notes} if notes else {})
    if json_output:
        typer.echo(json.dumps(summary, indent=2))
    else:
        _print_summary(summary)
    if summary["skipped"]:
        raise typer.Exit(1)


def _work(run: FolderRun, jobs: list[Job], workers: int, overwrite: bool, is_quiet: bool) -> tuple[list[Outcome], int]:
    """Do what is not done yet; the outcomes, and how many images were done before."""
    from anymask.generator.folder import work_in_turn
    from anymask.generator.workers import work_side_by_side

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
    for note in summary.get("notes", []):
        typer.echo(note, err=True)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
