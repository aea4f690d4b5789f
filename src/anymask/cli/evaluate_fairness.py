"""`anymask evaluate fairness` and `coverage`: mean IoU by group, and where a data set's images come from."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from anymask.cli.evaluate_common import ImagesDirOption, JsonOption, OutOption, print_table


def fairness(
    predictions: Annotated[
        list[Path], typer.Argument(help="What `evaluate points` wrote: its output folder, or predictions/SET in it.")
    ],
    table: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSON: image (file name; COCO, LVIS: id), object (its place in the file, optional), groups."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Instead of a table: what the data set says of each mask, such as category.", metavar="KEY"),
    ] = None,
    measures: Annotated[str, typer.Option(help="Numbers of clicks, oracle or box.")] = "1,3",
    out: OutOption = Path("evaluation/fairness"),
    json_output: JsonOption = False,
) -> None:
    """Mean IoU by group at 1 and 3 clicks, with 95% intervals, from the answers of the point experiment.

    Writes fairness.json, fairness.md and fairness.png.
    """
    from anymask.evaluation.fairness import evaluate_fairness, find_predictions
    from anymask.evaluation.groups import TableGroups, TruthGroups

    if (table is None) == (by is None):
        raise typer.BadParameter("give one of --table and --by", param_hint="--table")
    groups = TruthGroups(by) if by is not None else TableGroups(table or "")
    results = evaluate_fairness(find_predictions(predictions), groups, out, measures.split(","))
    if json_output:
        typer.echo((out / "fairness.json").read_text())
        return
    for attribute in results.groups:
        print_table(f"Mean IoU (%), {attribute}", *results.table(attribute), has_summary=False)
    typer.echo(f"Written to {out}")


def coverage(
    dataset: Annotated[Path, typer.Argument(help="A data set in any format that `dataset` commands read.")],
    table: Annotated[Path, typer.Option(help="CSV or JSON: image, and country, region, income or any groups.")],
    countries: Annotated[
        Path | None, typer.Option(help="CSV or JSON: country, and its region, income or any groups.")
    ] = None,
    images_dir: ImagesDirOption = None,
    out: OutOption = Path("evaluation/coverage"),
    json_output: JsonOption = False,
) -> None:
    """Shares of a data set's images and masks by region, income group or whatever a table says.

    Writes coverage.json, coverage.md and coverage.png.
    """
    from anymask.data.formats import read_dataset
    from anymask.evaluation.coverage import evaluate_coverage

    images = read_dataset(dataset, images_dir=images_dir)
    results = evaluate_coverage(images, table, out, countries, dataset.resolve().name)
    if json_output:
        typer.echo(json.dumps(asdict(results)))
        return
    for attribute in results.groups:
        print_table(f"Coverage by {attribute}", *results.table(attribute), has_summary=False)
    typer.echo(f"Written to {out}")
