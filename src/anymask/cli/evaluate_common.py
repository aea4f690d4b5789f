"""What the `anymask evaluate` commands share: who is judged, progress bars and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from anymask.model.segmenter import Segmenter
    from anymask.predictor import Predictor

# Called with a data set's name, how many of its images are done and how many there are.
ImageProgress = Callable[[str, int, int], None]

# Options that mean the same in every experiment.
ModelOption = Annotated[str, typer.Option("--model", help="Model by name, a checkpoint, or a folder of graphs.")]
CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", help="Weights to load instead of the model's own.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for predictions and results.")]
EmbeddingsOption = Annotated[
    Path | None,
    typer.Option("--embeddings", help="Folder that keeps images' embeddings for all experiments [default: none]."),
]
MaxImagesOption = Annotated[
    int | None, typer.Option("--max-images", min=1, help="At most so many images of a set, evenly spaced.")
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="Processes that share the images; one for each core is best.")
]
ImagesDirOption = Annotated[
    Path | None, typer.Option("--images-dir", help="Where the pictures lie, if not where the layout has them.")
]
TruthArgument = Annotated[
    Path, typer.Argument(help="A COCO or LVIS instances file, or a folder in SA-1B's layout.", metavar="TRUTH")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]


def refuse_weights(baseline: bool, checkpoint: Path | None) -> None:
    """Raises BadParameter for --baseline together with --checkpoint."""
    if baseline and checkpoint is not None:
        raise typer.BadParameter("takes no weights; leave out --checkpoint", param_hint="--baseline")


def load_predictor(name: str, checkpoint: Path | None, device: str) -> Predictor:
    """The model that is judged, for many prompts an image."""
    from anymask.predictor import Predictor

    return Predictor(load_judged(name, checkpoint, device), prompts_per_batch=64)


def load_judged(name: str, checkpoint: Path | None, device: str) -> Segmenter:
    """The model that is judged, with its weights."""
    from anymask.runtime.opening import load_model

    return load_model(name, checkpoint=checkpoint, device=device)


@contextmanager
def progress_bars() -> Iterator[ImageProgress]:
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


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], has_summary: bool = True, is_text: bool = False
) -> None:
    """Show a table of numbers, its last row set apart with `has_summary`, or one of text that may be broken."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0) if is_text else 0)
    for index, heading in enumerate(header):
        is_number = index > 0 and not is_text
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=not is_text, overflow="fold")
    for row in rows:
        if has_summary and not is_text and row is rows[-1]:
            table.add_section()
        table.add_row(*row)
    width = None
    if not is_text:
        # A figure that is cut off is a wrong one: a table of numbers keeps its width, whatever the terminal's is.
        width = max(Console().width, Console(width=10_000).measure(table).maximum)
    Console(width=width).print(table)
