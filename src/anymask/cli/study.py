"""`anymask study`: people rate masks without knowing who made them (paper, section E)."""

from __future__ import annotations

import json
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from anymask.cli.evaluate_common import print_table, progress_bars

app = typer.Typer(no_args_is_help=True, help="People rate masks from 1 to 10 without knowing who made them.")

StudyFolder = Annotated[Path, typer.Argument(help="The study's folder.", metavar="STUDY")]


@app.command()
def make(
    study: StudyFolder,
    method: Annotated[
        list[str],
        typer.Option(help="A method: its name and what `evaluate points` wrote for it.", metavar="NAME=FOLDER"),
    ],
    prompt: Annotated[str, typer.Option(help="How many clicks the masks answer.")] = "1",
    objects: Annotated[int | None, typer.Option(min=1, help="At most so many objects, drawn at random.")] = 100,
    repeat: Annotated[float, typer.Option(min=0, max=1, help="Share of tasks that come twice.")] = 0.1,
    truth: Annotated[bool, typer.Option(help="Rate the true masks too.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
) -> None:
    """Make the tasks: each object with each method's mask, shuffled and numbered so that nothing tells whose it is.

    The methods must have answered the same clicks. Objects under 24 x 24 pixels are left out.
    """
    from anymask.evaluation.study_tasks import StudySettings, make_study

    methods: dict[str, str | Path] = {}
    for entry in method:
        name, separator, folder = entry.partition("=")
        if not separator or not name or not folder or name in methods:
            raise typer.BadParameter(f"{entry!r} is not NAME=FOLDER with a name of its own", param_hint="--method")
        methods[name] = Path(folder)
    settings = StudySettings(prompt=prompt, objects=objects, repeat_share=repeat, with_truth=truth, seed=seed)
    with progress_bars() as progress:
        count = make_study(study, methods, settings, progress)
    typer.echo(f"{count} tasks in {study}; now: anymask study serve {study}")


@app.command()
def serve(
    study: StudyFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8630,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = False,
) -> None:
    """Show the tasks in the browser, on this machine alone, until Ctrl+C; every rating is kept at once."""
    from anymask.server.run import listen
    from anymask.server.run import serve as serve_app
    from anymask.server.study import create_study_app

    served = create_study_app(study)
    address = listen("127.0.0.1", port)

    def announce() -> None:
        typer.echo(f"Study {study}: {address.url}   (Ctrl+C ends)")
        if browser:
            webbrowser.open(address.url)

    serve_app(served, address, announce)


@app.command()
def report(
    study: StudyFolder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report [default: the study's].")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Mean ratings with intervals, paired comparisons, and how consistent the raters are.

    Writes study.json, study.md and study.png.
    """
    from anymask.evaluation.report import finite
    from anymask.evaluation.study import report_study

    results = report_study(study, out)
    if json_output:
        typer.echo(json.dumps(finite(asdict(results))))
        return
    print_table("Mean ratings", *results.table(), has_summary=False)
    if results.comparisons:
        print_table("Paired comparisons", *results.comparison_table(), has_summary=False)
    typer.echo(f"Written to {out or study}")
