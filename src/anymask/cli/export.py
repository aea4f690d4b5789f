"""`anymask export`: a model as ONNX graphs, or with 8-bit weights."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from anymask.export.int8 import Cost
    from anymask.model.segmenter import Segmenter

app = typer.Typer(no_args_is_help=True, help="Write a model as ONNX graphs, or with 8-bit weights.")
onnx_app = typer.Typer(no_args_is_help=True, help="Write a model as ONNX graphs, for any program with an ONNX runtime.")
app.add_typer(onnx_app, name="onnx")


class Pixels(StrEnum):
    """What the encoder takes."""

    uint8 = "uint8"
    normalised = "normalised"


ModelArgument = Annotated[str, typer.Argument(help="Model by name, or a checkpoint that names its own.")]
CheckpointOption = Annotated[Path | None, typer.Option(help="Weights to load instead of the model's own.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="The file to write.")]
HalfOption = Annotated[
    bool, typer.Option("--half", help="Store weights as float16: half the file, computed in float32 as before.")
]
PixelsOption = Annotated[
    Pixels,
    typer.Option(help="uint8: a resized RGB picture (1, H, W, 3); normalised: floats (1, 3, H, W), padded already."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@onnx_app.command("encoder")
def encoder(
    out: OutOption,
    model: ModelArgument = "tiny",
    checkpoint: CheckpointOption = None,
    pixels: PixelsOption = Pixels.uint8,
    half: HalfOption = False,
    as_json: JsonOption = False,
) -> None:
    """Image to features, for any number of images: embedding, and skip maps where the model has them."""
    from anymask.export.encoder import export_encoder

    network = _load(model, checkpoint)
    _report(export_encoder(network, out, pixels.value, half), as_json)


@onnx_app.command("decoder")
def decoder(
    out: OutOption,
    model: ModelArgument = "tiny",
    checkpoint: CheckpointOption = None,
    half: HalfOption = False,
    as_json: JsonOption = False,
) -> None:
    """Features of one image and any number of prompts, of any lengths, to mask logits and predicted IoU."""
    from anymask.export.decoder import export_decoder

    _report(export_decoder(_load(model, checkpoint), out, half), as_json)


@onnx_app.command("reference-decoder")
def reference_decoder(
    out: OutOption,
    model: ModelArgument = "vit_b",
    checkpoint: CheckpointOption = None,
    single_mask: Annotated[bool, typer.Option("--single-mask", help="Let the graph choose the best mask.")] = False,
    half: HalfOption = False,
    as_json: JsonOption = False,
) -> None:
    """The decoder with the inputs and outputs of segment-anything's own ONNX export; for models without skip maps."""
    from anymask.export.reference import export_reference_decoder

    _report(export_reference_decoder(_load(model, checkpoint), out, single_mask, half), as_json)


@onnx_app.command("whole")
def whole(
    out: OutOption,
    model: ModelArgument = "tiny",
    checkpoint: CheckpointOption = None,
    pixels: PixelsOption = Pixels.uint8,
    half: HalfOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encoder and decoder in one file: one image and its prompts to mask logits."""
    from anymask.export.whole import export_whole

    _report(export_whole(_load(model, checkpoint), out, pixels.value, half), as_json)


@onnx_app.command("folder")
def folder(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write, made if need be.")],
    model: ModelArgument = "tiny",
    checkpoint: CheckpointOption = None,
    half: HalfOption = False,
    as_json: JsonOption = False,
) -> None:
    """encoder.onnx and decoder.onnx as load_model(..., checkpoint=FOLDER, runtime="onnx") opens them."""
    from anymask.export.folder import export_folder

    written = export_folder(_load(model, checkpoint), out, half)
    _report(written, as_json)


@app.command("int8")
def int8(
    out: OutOption,
    model: ModelArgument = "tiny",
    checkpoint: CheckpointOption = None,
    evaluate: Annotated[
        list[Path] | None,
        typer.Option(help="Measure the mean IoU it costs on a folder in SA-1B's layout; may be given again."),
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="At most so many images of each folder.")] = None,
    as_json: JsonOption = False,
) -> None:
    """A checkpoint whose image encoder has 8-bit linear layers, for the CPU.

    Inputs are rounded as they come, so that nothing needs calibrating. Prints what it gains in speed, here and now,
    and with --evaluate what it costs in mean IoU.
    """
    from anymask.export.int8 import measure_cost, round_encoder, save_int8

    network = _load(model, checkpoint)
    rounded = round_encoder(network)
    path = save_int8(rounded, out)
    cost = measure_cost(network, rounded, evaluate or [], max_images)
    if as_json:
        typer.echo(json.dumps({"path": str(path), "bytes": path.stat().st_size} | cost.to_json()))
    else:
        _print_cost(path, cost)


def _load(name: str, checkpoint: Path | None) -> Segmenter:
    from anymask.model.zoo import load_model

    return load_model(name, checkpoint=checkpoint, device="cpu")


def _report(path: Path, as_json: bool) -> None:
    files = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    num_bytes = sum(file.stat().st_size for file in files)
    if as_json:
        typer.echo(json.dumps({"path": str(path), "bytes": num_bytes}))
    else:
        typer.echo(f"{path}: {num_bytes / 1e6:.1f} MB")


def _print_cost(path: Path, cost: Cost) -> None:
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    table = Table("", "float32", "int8", "", box=None, header_style="bold")
    table.add_row(
        "an image", f"{cost.encode_ms_before:.0f} ms", f"{cost.encode_ms_after:.0f} ms", f"{cost.speedup:.2f} x as fast"
    )
    for name, lost in cost.lost_points.items():
        label = {"1": "one click", "oracle": "one click, best of three", "box": "a box"}.get(name, name)
        table.add_row(
            f"mean IoU, {label}",
            f"{cost.miou_before[name]:.2f}",
            f"{cost.miou_after[name]:.2f}",
            f"{-lost:+.2f} points",
        )
    Console().print(table)
