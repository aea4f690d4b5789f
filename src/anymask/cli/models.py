"""`anymask models`: which models there are, what each one is, and fetching the official weights."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    import torch

    from anymask.model.segmenter import Segmenter

app = typer.Typer(name="models", help="The models there are: list, describe and fetch them.", no_args_is_help=True)

JSON_OPTION = typer.Option(False, "--json", help="Print JSON for machines.")
SPEED_RUNS = 3


@app.command("list")
def list_models(as_json: bool = JSON_OPTION) -> None:
    """All models, their size, and whether their weights are here."""
    from anymask.model.registry import BUILDERS
    from anymask.model.zoo import model_info

    infos = [model_info(name) for name in BUILDERS]
    if as_json:
        typer.echo(json.dumps(infos, indent=2))
        return
    table = Table("name", "parameters", "input", "weights", "download", box=None, header_style="bold")
    for info in infos:
        megabytes = info["download_megabytes"]
        download = f"{megabytes} MB" if megabytes else "-"
        table.add_row(
            info["name"], _millions(info["parameters"]), f"{info['input_size']} px", info["weights"], download
        )
    Console().print(table)


@app.command("info")
def show_info(
    name: str = typer.Argument(help="A model's name, as `anymask models list` gives it."),
    speed: bool = typer.Option(False, "--speed", help="Measure here and now how long an image and a click take."),
    device: str = typer.Option("auto", help="Where --speed measures: auto, cpu, cuda, cuda:1 or mps."),
    as_json: bool = JSON_OPTION,
) -> None:
    """One model: parameters, input size, where its weights come from and their licence."""
    from anymask.model.zoo import model_info

    info = model_info(name)
    if speed:
        info["speed"] = measure_speed(_model_for_timing(name, device))
    if as_json:
        typer.echo(json.dumps(info, indent=2))
        return
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("name", info["name"])
    table.add_row("parameters", _millions(info["parameters"]))
    table.add_row("input", f"longest side {info['input_size']} px, one cell per {info['stride']} px")
    table.add_row("weights", f"{info['weights']}{': ' + info['path'] if info['path'] else ''}")
    table.add_row("origin", info["origin"])
    table.add_row("licence", info["licence"])
    for key, value in info["metadata"].items():
        table.add_row(key, value)
    if speed:
        measured = info["speed"]
        table.add_row("an image", f"{measured['encode_ms']:.0f} ms on {measured['device']}")
        table.add_row("a click", f"{measured['click_ms']:.0f} ms on {measured['device']}")
    Console().print(table)


@app.command("pull")
def pull_model(
    name: str = typer.Argument(help="vit_b, vit_l, vit_h or mobile_sam."),
    folder: Path | None = typer.Option(None, help="Where to put the file, instead of the cache folder."),
    url: str | None = typer.Option(None, help="A mirror to fetch from; the file must have the official hash."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Fetch official weights into the cache folder (ANYMASK_CACHE), resuming and checking them."""
    from anymask.model.pull import pull

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=as_json) as bar:
        task = bar.add_task(name, total=None)
        path = pull(name, folder, url, lambda done, total: bar.update(task, completed=done, total=total))
    typer.echo(json.dumps({"name": name, "path": str(path)}) if as_json else str(path))


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"


def _model_for_timing(name: str, device: str) -> Segmenter:
    """The model with its weights, or with fresh ones where they aren't here: they take the same time."""
    import torch

    from anymask.errors import CheckpointError
    from anymask.model.device import choose_device
    from anymask.model.registry import build_model
    from anymask.model.zoo import load_model

    try:
        return load_model(name, device=device)
    except CheckpointError:
        model = build_model(name).eval().requires_grad_(False)
        model.to(device=choose_device(device))
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model


def measure_speed(model: Segmenter, runs: int = SPEED_RUNS) -> dict[str, Any]:
    """Median milliseconds to encode an image that fills the model's input, and to answer one click on it.

    One run of each comes before those that count.
    """
    import torch

    from anymask.model.segmenter import PromptBatch

    side = model.input_spec.longest_side
    pixels = torch.zeros(1, 3, side, side, device=model.device, dtype=model.dtype)
    click = PromptBatch(
        points_xy=torch.tensor([[[side / 2, side / 2], [0.0, 0.0]]], device=model.device),
        labels=torch.tensor([[1, -1]], device=model.device),
    )
    with torch.inference_mode():
        features = model.encode(pixels)
        encode_ms = _median_ms(lambda: model.encode(pixels), model.device, runs)
        click_ms = _median_ms(lambda: model.decode(features, click), model.device, runs)
    return {
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "encode_ms": encode_ms,
        "click_ms": click_ms,
    }


def _median_ms(work: Callable[[], object], device: torch.device, runs: int) -> float:
    import torch

    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])
