"""`anymask doctor`: what this installation has and whether the packaged model answers."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

# Package and what it is for; the optional ones may be missing.
PACKAGES = {
    "torch": "networks",
    "numpy": "arrays",
    "pillow": "images",
    "opencv-python-headless": "resizing and outlines",
    "pycocotools": "run-length masks",
    "safetensors": "weights",
    "lightning-fabric": "optional: anymask[train]",
    "scikit-image": "optional: anymask[eval]",
    "matplotlib": "optional: anymask[eval]",
}


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Say what is installed, which devices there are, and try the packaged model on a made-up picture.

    Exit code 1 when the packaged model does not answer.
    """
    report = examine()
    if json_output:
        typer.echo(json.dumps(report, indent=2))
    else:
        table = Table(show_header=False, box=None)
        for key, value in report.items():
            table.add_row(f"[bold]{key}[/bold]", value if isinstance(value, str) else json.dumps(value))
        Console().print(table)
    if not report["model"].startswith("answers"):
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Versions, cores, devices, cache folder, and the packaged model's own try."""
    from anymask.model.cache import cache_folder
    from anymask.model.device import available_devices

    report: dict[str, Any] = {
        "anymask": importlib.metadata.version("anymask"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    for package, purpose in PACKAGES.items():
        try:
            report[package] = f"{importlib.metadata.version(package)} ({purpose})"
        except importlib.metadata.PackageNotFoundError:
            report[package] = f"not installed ({purpose})"
    report["devices"] = ", ".join(available_devices())
    report["cache folder"] = str(cache_folder())
    report["model"] = _try_model()
    return report


def _try_model() -> str:
    """Segment a bright disc on a dark ground with the packaged model."""
    import numpy as np

    import anymask

    y, x = np.mgrid[:384, :512]
    disc = (x - 256) ** 2 + (y - 192) ** 2 < 90**2
    picture = np.where(disc[..., None], (220, 180, 40), (30, 40, 60)).astype(np.uint8)
    try:
        started = time.perf_counter()
        model = anymask.load_model()
        loaded = time.perf_counter()
        predictor = anymask.Predictor(model)
        predictor.set_image(picture)
        encoded = time.perf_counter()
        mask = predictor.predict(points=[[256, 192]]).best
        decoded = time.perf_counter()
    except anymask.AnymaskError as error:
        return f"fails: {error}"
    iou = (mask & disc).sum() / (mask | disc).sum()
    return (
        f"answers: a disc with IoU {iou:.2f}; load {loaded - started:.2f} s, "
        f"encode {1000 * (encoded - loaded):.0f} ms, click {1000 * (decoded - encoded):.0f} ms (first calls)"
    )
