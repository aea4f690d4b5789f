"""`anymask annotate`: draw masks in the browser with a model's help; statistics and export of what was drawn."""

from __future__ import annotations

import getpass
import json
import os
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from typer.core import TyperGroup

from anymask.errors import AnymaskError

if TYPE_CHECKING:
    from anymask.server.scan import Progress as ScanProgress
    from anymask.server.store import Store


class OpenByDefault(TyperGroup):
    """`annotate DIR` is `annotate open DIR`; a folder that is named like a command is written ./stats."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["open", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=OpenByDefault,
    no_args_is_help=True,
    help="Draw masks in the browser: `anymask annotate DIR` opens a folder of images.",
)

Folder = Annotated[Path, typer.Argument(help="Folder of images.", metavar="DIR")]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", help="SQLAlchemy URL of the database; left out: SQLite in DIR/.anymask.", metavar="URL"),
]


@app.command("open")
def open_folder(
    folder: Folder,
    model: Annotated[str, typer.Option(help="Model by name, a checkpoint, or a folder of graphs.")] = "tiny",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to load instead of the model's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    label: Annotated[list[str] | None, typer.Option(help="A class to offer; may be given many times.")] = None,
    annotator: Annotated[str | None, typer.Option(help="Your name in the store; left out: your login's.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Folders inside the folder too.")] = False,
    prefill: Annotated[
        Path | None, typer.Option(help="Masks to propose, any format; left out: JSON beside the images.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8620,
    token: Annotated[
        str | None, typer.Option(envvar="ANYMASK_TOKEN", help="Ask for this token; made up where one is needed.")
    ] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="A further name by which the server is called.")] = None,
    seconds_per_mask: Annotated[
        float,
        typer.Option(min=1, help="After this long on one mask the page offers the next image (the paper's rule)."),
    ] = 30,
    lease_minutes: Annotated[float, typer.Option(min=0.1, help="How long an image stays with an annotator.")] = 10,
    store: StoreUrl = None,
    browser: Annotated[bool | None, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = None,
) -> None:
    """Serve the page for one folder until Ctrl+C; everything accepted is kept in DIR/.anymask."""
    from anymask.server.run import listen, serve

    if not folder.is_dir():
        raise AnymaskError(f"{folder}: is not a folder; allowed: a folder of images")
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or ";" in token):
        raise AnymaskError("--token is too short or has characters of its own; allowed: 8 or more ASCII letters")
    address = listen(host, port, token, allow_host or ())
    from anymask.runtime.opening import load_model  # after the port is had, for these take seconds
    from anymask.server import Rules, create_app

    rules = Rules(
        annotator=(annotator or _login())[:64],
        labels=tuple(label or ()),
        seconds_per_mask=seconds_per_mask,
        lease_seconds=60 * lease_minutes,
    )
    with _progress() as progress:
        served = create_app(
            folder,
            model=load_model(model, checkpoint=checkpoint, device=device),
            store_url=store,
            token=address.token,
            allowed_hosts=address.allowed_hosts,
            rules=rules,
            recursive=recursive,
            prefill=prefill,
            progress=progress,
        )
    for problem in served.state.service.problems:
        typer.echo(f"anymask: {problem}", err=True)
    wants_browser = _has_screen() if browser is None else browser

    def announce() -> None:
        typer.echo(f"Annotating {folder} with {model}: {address.url}   (Ctrl+C ends)")
        if wants_browser:
            webbrowser.open(address.url)

    try:
        serve(served, address, announce)
    finally:
        served.state.service.close()


@app.command()
def stats(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for annotation.png and annotation.json.")
    ] = None,
    store: StoreUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Time per mask, masks per image and clicks per mask, per person and day."""
    from anymask.data.sa1b import write_text_atomically
    from anymask.server.statistics import collect_statistics, plot_annotation

    with _opened(folder, store) as opened, opened.reading() as session:
        collected = collect_statistics(session)
    text = json.dumps(collected.to_json(), indent=2)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        plot_annotation(collected, out / "annotation.png", folder.resolve().name)
        write_text_atomically(out / "annotation.json", text + "\n")
    if as_json:
        typer.echo(text)
        return
    _print_statistics(collected.to_json(), folder)
    if out is not None:
        typer.echo(f"Written to {out}")


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("annotations"),
    to: Annotated[str, typer.Option("--to", help="sa1b, coco, yolo, png or labelme.", metavar="FORMAT")] = "sa1b",
    proposed: Annotated[bool, typer.Option("--proposed", help="Also prefilled masks that nobody looked at.")] = False,
    pictures: Annotated[str, typer.Option(help="copy, link (hard links) or none.", metavar="copy|link|none")] = "copy",
    overlays: Annotated[bool, typer.Option("--overlays", help="Also draw each image into overlays/NAME.jpg.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that holds something.")] = False,
    store: StoreUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Write all accepted masks as a data set; possible at any time, also while the server runs."""
    from anymask.data.annotated import AnnotatedImage
    from anymask.data.formats import write_dataset
    from anymask.server.export import exported_images

    if out.resolve() == folder.resolve():
        raise AnymaskError(f"{out}: is where the images lie; allowed: another folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise AnymaskError(f"{out}: is not empty; allowed: a new folder, or --overwrite")
    images = masks = 0

    def counted(exported: Iterator[AnnotatedImage]) -> Iterator[AnnotatedImage]:
        nonlocal images, masks
        for image in exported:
            images, masks = images + 1, masks + len(image.records)
            yield image

    with _opened(folder, store) as opened:
        found = counted(exported_images(opened, folder, "all" if proposed else "accepted"))
        write_dataset(out, found, to, pictures, overlays)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps({"out": str(out), "format": to, "images": images, "masks": masks}))
    else:
        typer.echo(f"Wrote {masks} masks on {images} images to {out} ({to})")


@contextmanager
def _opened(folder: Path, url: str | None) -> Iterator[Store]:
    """The store of a folder that has one."""
    from anymask.server.store import Store

    if url is None and not (folder / ".anymask" / "annotations.sqlite").is_file():
        raise AnymaskError(f"{folder}: has no annotations yet; `anymask annotate {folder}` makes some")
    store = Store(url or Store.in_folder(folder))
    try:
        yield store
    finally:
        store.close()


def _print_statistics(facts: dict[str, Any], folder: Path) -> None:
    table = Table(title=str(folder), box=None)
    columns = {
        "masks": "masks",
        "images": "images",
        "seconds_per_mask": "s/mask",
        "mean_seconds_per_mask": "mean s/mask",
        "clicks_per_mask": "clicks/mask",
        "masks_per_image": "masks/image",
        "prefilled_accepted": "prefilled",
    }
    for heading in ("day", "who"):
        table.add_column(heading)
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for row in facts["rows"]:
        table.add_row(row["day"], row["annotator"], *(_shown(row[key]) for key in columns))
    table.add_section()
    table.add_row("all", "", *(_shown(facts["total"][key]) for key in columns))
    console = Console()
    console.print(table)
    console.print(", ".join(f"{count} {state}" for state, count in facts["images"].items()))


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "annotator"


def _has_screen() -> bool:
    has_display = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return has_display and sys.stdout.isatty()


@contextmanager
def _progress() -> Iterator[ScanProgress]:
    """Bars on standard error while a folder is taken in; nothing where that is not a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield update
