"""`anymask teach`: what a larger model sees in images and answers to clicks, kept for a smaller one to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def teach(
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.", metavar="IMAGE|DIR...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the embeddings.")],
    model: Annotated[str, typer.Option(help="The teacher: a model by name, or a checkpoint.")] = "mobile_sam",
    recursive: Annotated[bool, typer.Option("--recursive", help="Folders inside folders too.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Embed pictures with a teacher, for `anymask train RECIPE --teacher FOLDER`.

    Where a picture has an SA-1B JSON beside it, the teacher also answers clicks on its objects and on a grid. Two
    megabytes a picture at most, whatever its size, and the answers. What is done already is skipped; a picture that
    cannot be read is reported at the end, with exit code 1.
    """
    from anymask.errors import DataError, ImageError
    from anymask.generator.folder import find_jobs
    from anymask.loading import load_model
    from anymask.training.loop import progress_bar
    from anymask.training.teacher import keep_embedding, open_for_teacher
    from anymask.training.teacher_answers import keep_answers

    pictures = [job.path for job in find_jobs(images, recursive, out)]
    teacher = load_model(model, device=device)
    open_for_teacher(teacher, out)
    num_kept, skipped = 0, []
    with progress_bar(is_visible=True) as progress:
        task = progress.add_task("teach", total=len(pictures), note="")
        for picture in pictures:
            try:
                keep_embedding(teacher, picture, out)
                num_kept += 1
                keep_answers(teacher, picture, out)
            except (ImageError, DataError) as error:
                skipped.append(str(error))
            progress.update(task, advance=1, note=picture.name)
    typer.echo(f"{num_kept:,} pictures' embeddings in {out}")
    for reason in skipped:
        typer.echo(f"skipped: {reason}", err=True)
    if skipped:
        raise typer.Exit(1)
