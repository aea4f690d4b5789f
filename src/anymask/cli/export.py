"""`anymask export`: a model as ONNX graphs, or with 8-bit weights."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anymask.cli.evaluate_common import print_table, progress_bars

if TYPE_CHECKING:
    from anymask.export.int8 import Cost
    from anymask.model.segmenter import Segmenter

# Names of measures for people.
MEASURES = {"1": "click", "oracle": "best of 3", "box": "box"}

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
    """The graphs encoder, preparation and prompts, which load_model(..., checkpoint=FOLDER, runtime="onnx") opens."""
    from anymask.export.folder import export_folder

    written = export_folder(_load(model, checkpoint), out, half)
    _report(written, as_json)


@app.command("int8")
def int8(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The checkpoint to write; with --calibrate the folder of graphs.")
    ],
    model: ModelArgument = "tiny",
    checkpoint: CheckpointOption = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="A folder of photographs like yours: round convolutions too, for onnxruntime.", metavar="DIR"
        ),
    ] = None,
    photographs: Annotated[int, typer.Option(min=1, help="Calibrate on so many of them, evenly spaced.")] = 24,
    evaluate: Annotated[
        list[Path] | None,
        typer.Option(help="Measure the mean IoU it costs on this data set; may be given again.", metavar="DATA"),
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="At most so many images of each data set.")] = None,
    max_objects: Annotated[int | None, typer.Option(min=1, help="At most so many objects of each image.")] = None,
    as_json: JsonOption = False,
) -> None:
    """A model whose image encoder computes in 8 bits, for the CPU. Any command takes it as --model OUT.

    For ViT models: a checkpoint with 8-bit linear layers, whose inputs are rounded as they come. For `tiny`, which is
    convolutions: --calibrate DIR, which writes a folder of graphs for onnxruntime. Best written on the
    machine that will use it.

    Prints how much faster it is, here and now, and with --evaluate what it costs in mean IoU on the same objects.
    """
    from anymask.export.int8 import measure_cost, round_encoder, save_int8

    network = _load(model, checkpoint)
    if calibrate is None:
        rounded = round_encoder(network)
        path = save_int8(rounded, out)
    else:
        from anymask.export.calibrated import export_calibrated_folder, find_photographs
        from anymask.runtime.onnx import open_graphs

        path = export_calibrated_folder(network, out, find_photographs(calibrate, photographs))
        rounded = open_graphs(path)
    with progress_bars() as progress:
        cost = measure_cost(network, rounded, evaluate or [], max_images, max_objects, progress)
    if as_json:
        typer.echo(json.dumps({"path": str(path), "bytes": _size(path)} | cost.to_json()))
    else:
        _report(path, as_json=False)
        _print_cost(cost)


def _load(name: str, checkpoint: Path | None) -> Segmenter:
    from anymask.model.zoo import load_model

    return load_model(name, checkpoint=checkpoint, device="cpu")


def _report(path: Path, as_json: bool) -> None:
    num_bytes = _size(path)
    if as_json:
        typer.echo(json.dumps({"path": str(path), "bytes": num_bytes}))
    else:
        typer.echo(f"{path}: {num_bytes / 1e6:.1f} MB")


def _size(path: Path) -> int:
    files = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _print_cost(cost: Cost) -> None:
    typer.echo(
        f"encoding an image: {cost.encode_ms_after:.0f} ms, float32 {cost.encode_ms_before:.0f} ms: "
        f"{cost.speedup:.2f} x as fast"
    )
    if cost.before is None or cost.after is None:
        typer.echo("mean IoU: what 8 bits cost was not measured; give --evaluate DATA")
        return
    lost = [*(cost.lost_points_by_set or {}).values(), cost.lost_points or {}]
    header, rows = cost.after.table()
    measures = header[3:]
    header = ["set", "objects", *(name for measure in measures for name in (MEASURES.get(measure, measure), "points"))]
    for row, points in zip(rows, lost, strict=True):
        row[1:] = [
            row[2],
            *(
                text
                for score, measure in zip(row[3:], measures, strict=True)
                for text in (score, f"{-points[measure]:+.2f}")
            ),
        ]
    print_table("Mean IoU (%) in 8 bits, and points against float32 on the same objects", header, rows)
