"""`anymask evaluate compare`: one model's lead over another, set by set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from anymask.cli.evaluate_common import JsonOption, OutOption, print_table


def compare(
    first: Annotated[Path, typer.Argument(help="Folder that `anymask evaluate points` wrote.")],
    second: Annotated[Path, typer.Argument(help="The other model's.")],
    measure: Annotated[str, typer.Option(help="A number of clicks, oracle, box or box+1.")] = "1",
    out: OutOption = Path("evaluation"),
    json_output: JsonOption = False,
) -> None:
    """The first model's lead in mean IoU on each set that both were judged on, as a table and a bar chart.

    Writes comparison.json, comparison.md and comparison.png.
    """
    from anymask.evaluation.comparison import compare_points

    comparison = compare_points(first, second, out, measure)
    if json_output:
        typer.echo(json.dumps(asdict(comparison)))
    else:
        print_table("Lead in mean IoU (percentage points)", *comparison.table())
        typer.echo(f"Written to {out}")
