"""`python benchmarks/bench.py [PAIR...]`: anymask beside its peers, in one run, taking turns.

Every network carries the same random weights. Ratios between contestants of one run mean something; seconds of
different runs or machines do not.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import environment
import report
from pairs import MODULES, find_pair
from turns import ContestantError, run_pair


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="[PAIR]...", help=", ".join(MODULES))] = None,
    quick: Annotated[bool, typer.Option(help="Few rounds: seconds instead of minutes.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every contestant.")] = os.cpu_count() or 1,
    cpu_time: Annotated[
        bool, typer.Option(help="CPU time instead of the wall clock: for a machine that others use, with --threads 1.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file too.")] = None,
) -> None:
    """Measure the named pairs, or all that are here."""
    console = Console(width=report.WIDTH)
    for name in names or []:
        if name not in MODULES:
            raise typer.BadParameter(f"{name!r} is no pair; allowed are {', '.join(MODULES)}")
    pairs: dict[str, Any] = {}
    with console.status("") as status:
        try:
            python = environment.peers_python(status.update)
            for name in names or MODULES:
                pair = find_pair(name)
                if pair is None:
                    console.print(f"{name}: not here")
                    continue
                rounds = pair.quick_rounds if quick else pair.rounds
                say = f"{name} · "
                results = run_pair(
                    python,
                    name,
                    pair,
                    rounds,
                    threads,
                    lambda what, say=say: status.update(say + what),
                    "cpu" if cpu_time else "wall",
                )
                report.print_table(console, pair, results)
                pairs[name] = report.as_json(pair, results)
        except (ContestantError, subprocess.CalledProcessError) as error:
            console.print(f"[red]error:[/] {error}")
            raise typer.Exit(1) from error
    machine = report.machine(threads)
    console.print(f"{machine['processor']}, {machine['cores']} cores, {threads} threads, {report.packages()}")
    if json is not None:
        report.write_json(json, {"machine": machine, "packages": report.packages(), "pairs": pairs})


if __name__ == "__main__":
    typer.run(main)
