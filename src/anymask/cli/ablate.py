"""`anymask ablate`: what one choice in training is worth, from real runs that differ in it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anymask.errors import AnymaskError


def ablate(
    name: Annotated[str, typer.Argument(help="data-source, data-amount, encoder-size, outputs or losses.")],
    data: Annotated[Path, typer.Option(help="Folder of the data, as for `train tiny`.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the runs and their table.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each run.")] = 600,
    automatic: Annotated[
        Path | None, typer.Option(help="For data-source: photos with automatic masks beside them, in SA-1B's layout.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe that all runs share."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train the variants of one ablation and print their table; a killed ablation goes on where it was."""
    from anymask.training.ablations import ABLATIONS

    if name not in ABLATIONS:
        raise AnymaskError(f"ablation {name!r} is not known; the ablations are {', '.join(ABLATIONS)}")
    import torch

    from anymask.cli.train import with_settings
    from anymask.model.cache import cache_folder
    from anymask.training.ablations import base_config, markdown, run_ablation

    if threads is not None:
        torch.set_num_threads(threads)
    base = with_settings(base_config(data, steps), set_ or [])
    variants = ABLATIONS[name](base, automatic)
    folder = out or cache_folder() / "ablations" / name
    results = run_ablation(variants, folder, device)
    typer.echo(markdown(results) + f"\n{folder / 'results.png'}")
