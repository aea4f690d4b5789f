"""`anymask evaluate list`: the experiments, the paper's data sets, and what of them is here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from anymask.cli.evaluate_common import JsonOption, print_table

EXPERIMENTS = {
    "all": ("7", "points, instances, proposals and edges at once, on one page"),
    "points": ("7.1", "mean IoU after 1 to 9 clicks, and for boxes"),
    "compare": ("7.1, figure 9a", "one model's lead over another on each set"),
    "edges": ("7.2", "edges on BSDS500: ODS, OIS, AP, R50"),
    "proposals": ("7.3", "average recall of everything that is found"),
    "instances": ("7.4", "mask AP with a detector's boxes as prompts"),
    "text": ("7.5", "masks for phrases"),
    "fairness": ("6", "mean IoU by group, with confidence intervals"),
    "coverage": ("6", "images and masks by region and income"),
    "quality": ("5", "automatic masks against corrected ones"),
}


def list_all(
    data: Annotated[Path | None, typer.Option(help="Folder of data sets, to see which are there.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Show the experiments, the 23 data sets of the paper's point experiment, and which lie in --data."""
    from anymask.evaluation.known_sets import find_known_sets, find_sets, known_sets

    sets = known_sets()
    found = find_known_sets(data) if data is not None else {}
    others = [folder for folder in find_sets(data) if folder not in found.values()] if data is not None else []
    if json_output:
        entries = [{**asdict(known), "path": str(found[known.id]) if known.id in found else None} for known in sets]
        typer.echo(
            json.dumps({"experiments": list(EXPERIMENTS), "sets": entries, "others": [str(one) for one in others]})
        )
        return
    rows = [[name, *of] for name, of in EXPERIMENTS.items()]
    print_table(
        "Experiments: anymask evaluate NAME --help",
        ["name", "paper", "measures"],
        rows,
        has_summary=False,
        is_text=True,
    )
    header = ["folder", "name", "layout", "here" if data is not None else "home"]
    rows = [
        [known.id, known.name, known.layout or "-", _place(known.home, found.get(known.id), data)] for known in sets
    ]
    print_table("The paper's sets (none comes with this package)", header, rows, is_text=True)
    if others:
        print_table(
            f"Other sets in {data}", ["path"], [[str(folder)] for folder in others], has_summary=False, is_text=True
        )


def _place(home: str | None, path: Path | None, data: Path | None) -> str:
    if data is None:
        return home or "-"
    return "-" if path is None else str(path)
