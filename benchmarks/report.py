"""What was measured, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pairs import Pair
from turns import Result

# Of the tables, wherever they are printed: in a pipe the usual 80 columns would cut the figures.
WIDTH = 140
PACKAGES = ("anymask", "torch", "segment-anything", "transformers", "onnxruntime")


def print_table(console: Console, pair: Pair, results: list[Result]) -> None:
    """Median and range of each contestant, and how many times slower than ours it is."""
    table = Table(title=pair.title, title_justify="left", title_style="bold")
    for column in ("", "median", "range", "x ours", "wanted", "peak MB", "working MB", "differs"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for result in results:
        table.add_row(
            result.contestant,
            show_seconds(result.median_s),
            _show_range(result.seconds),
            _show_ratio(pair, result, results[0]),
            _show_wanted(pair, result.contestant),
            _show_megabytes(result.peak_mb),
            _show_megabytes(result.working_mb),
            "" if result.difference is None else f"{result.difference:.0e}",
        )
    console.print(table)


def _show_range(seconds: list[float]) -> str:
    lowest, highest = show_seconds(min(seconds)), show_seconds(max(seconds))
    return f"{lowest} - {highest}"


def _show_ratio(pair: Pair, result: Result, ours: Result) -> str:
    if result.contestant in pair.limits_s:
        reached = result.median_s <= pair.limits_s[result.contestant]
        return "[green]within[/]" if reached else "[red]over[/]"
    ratio = result.median_s / ours.median_s
    bar = pair.bars.get(result.contestant)
    if bar is None:
        return f"{ratio:.2f}"
    return f"[{'green' if ratio >= bar else 'red'}]{ratio:.2f}[/]"


def _show_wanted(pair: Pair, contestant: str) -> str:
    if contestant in pair.limits_s:
        return f"<= {show_seconds(pair.limits_s[contestant])}"
    return f">= {pair.bars[contestant]:g}" if contestant in pair.bars else ""


def show_seconds(seconds: float) -> str:
    """Three digits, in seconds or milliseconds."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _show_megabytes(megabytes: float | None) -> str:
    return "" if megabytes is None else f"{megabytes:,.0f}"


def machine(threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def packages() -> dict[str, str]:
    """Versions of what is installed here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found


def as_json(pair: Pair, results: list[Result]) -> dict[str, Any]:
    ours = results[0].median_s
    rows = [
        {**asdict(result), "median_s": result.median_s, "working_mb": result.working_mb}
        | ({} if pair.limits_s else {"times_ours": result.median_s / ours})
        for result in results
    ]
    return {"title": pair.title, "bars": dict(pair.bars), "limits_s": dict(pair.limits_s), "results": rows}


def write_json(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n")
