"""`anymask evaluate quality`: automatic masks against the same ones corrected by people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anymask.cli.evaluate_common import ImagesDirOption, JsonOption, OutOption, print_table


def quality(
    automatic: Annotated[
        Path, typer.Argument(help="Automatic masks, in any format that `dataset` commands read.", metavar="AUTO")
    ],
    corrected: Annotated[Path, typer.Argument(help="The same images, corrected.", metavar="CORRECTED")],
    pair: Annotated[
        str, typer.Option(help="id: masks keep their number; overlap: the best assignment.", metavar="id|overlap")
    ] = "id",
    images_dir: ImagesDirOption = None,
    out: OutOption = Path("evaluation/quality"),
    json_output: JsonOption = False,
) -> None:
    """The share of automatic masks whose corrected version has an IoU above 0.90 and 0.75, by size.

    Writes quality.json, quality.md and quality.png.
    """
    from anymask.data.formats import read_dataset
    from anymask.evaluation.quality import evaluate_quality

    before, after = (read_dataset(path, images_dir=images_dir) for path in (automatic, corrected))
    results = evaluate_quality(before, after, out, pair)
    if json_output:
        typer.echo((out / "quality.json").read_text())
        return
    print_table("Automatic masks against corrected ones (%)", *results.table(), has_summary=False)
    typer.echo(f"Written to {out}")
