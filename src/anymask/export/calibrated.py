"""An encoder graph with 8-bit convolutions, whose ranges come from photographs, beside the exact decoder.

Weights are rounded for each output channel, maps to 8 bits on the range that they had on the photographs ("static"
rounding, written as QuantizeLinear and DequantizeLinear, which every ONNX runtime knows). A convolution and the ReLU6
after it are one: the map is rounded once, on what is left of it. What is not a convolution stays float32: rounding
`tiny`'s matrix products and additions as well was no quicker and less exact ("measured").
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anymask.data.images import list_images, read_image
from anymask.errors import AnymaskError
from anymask.export.decoder import export_decoder_parts
from anymask.export.encoder import export_encoder
from anymask.export.folder import make_folder
from anymask.export.graphs import graph_facts, save_graph
from anymask.model.image_encoder import ViTEncoder
from anymask.model.int8 import has_exact_sums, require_processor
from anymask.model.segmenter import Segmenter
from anymask.runtime.onnx import ENCODER_FILE

if TYPE_CHECKING:
    import onnx

# Photographs to calibrate on: more than these move the ranges of `tiny` little ("assumed").
CALIBRATION_IMAGES = 24
# The first convolutions stay float32. They see few channels at the finest strides, where 8 bits gain nothing, and
# nearly half of the skip maps' error came from them ("measured" with tiny: the stem and the block at stride 2).
EXACT_CONVOLUTIONS = 3


def find_photographs(folder: str | Path, count: int = CALIBRATION_IMAGES) -> list[Path]:
    """At most `count` images of a folder and the folders in it, evenly spaced.

    Raises `ImageError` when it is not a folder, `AnymaskError` when there are no images in it.
    """
    paths = list_images(folder, recursive=True)
    if not paths:
        raise AnymaskError(f"{folder} has no images to calibrate on; allowed: a folder of photographs")
    return [paths[index * len(paths) // count] for index in range(count)] if len(paths) > count else paths


def export_calibrated_folder(model: Segmenter, folder: str | Path, photographs: Sequence[str | Path]) -> Path:
    """Write a model's encoder with 8-bit convolutions and its exact decoder into `folder`, which is made.

    `load_model` takes the folder as a model. Raises `AnymaskError` for a ViT, which is linear layers and next to no
    convolutions, without photographs, and when a file cannot be written; `ImageError` for a broken photograph.
    """
    require_processor(model.device, model.dtype)
    if isinstance(model.image_encoder, ViTEncoder):
        raise AnymaskError(
            f"calibrating rounds convolutions, and {model.name} is made of linear layers; "
            "those are rounded without calibration (anymask export int8 without --calibrate)"
        )
    if not photographs:
        raise AnymaskError("photographs is empty; allowed: one or more images to calibrate on")
    folder = make_folder(folder)
    with tempfile.TemporaryDirectory() as scratch:
        exact = export_encoder(model, Path(scratch) / ENCODER_FILE)
        graph = _round_convolutions(exact, _pixels(model, photographs))
    _name_graph(graph, model)
    save_graph(graph, folder / ENCODER_FILE)
    export_decoder_parts(model, folder)
    return folder


def _pixels(model: Segmenter, photographs: Sequence[str | Path]) -> Iterator[np.ndarray]:
    for path in photographs:
        yield model.preprocess(read_image(path))[0].numpy()


def _round_convolutions(path: Path, pixels: Iterator[np.ndarray]) -> onnx.ModelProto:
    """The graph in a file, with the convolutions after the first few rounded to 8 bits."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(pixels, None)
            return None if image is None else {"pixels": image}

    folded, rounded = (path.with_name(name) for name in ("folded.onnx", "rounded.onnx"))
    with _quiet_logging():
        quant_pre_process(str(path), str(folded), skip_symbolic_shape=True)
        quantize_static(
            str(folded),
            str(rounded),
            Reader(),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=_nodes_to_round(onnx.load(str(folded)).graph),
            op_types_to_quantize=["Conv", "Clip"],
            per_channel=True,
            # Without exact sums two products of 8 times 8 bits overflow 16; weights of 7 bits don't.
            reduce_range=not has_exact_sums(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    graph = onnx.load(str(rounded))
    # onnxruntime's tools say that the graph needs all of its own operators; it has the standard's alone.
    standard = [entry for entry in graph.opset_import if entry.domain == ""]
    del graph.opset_import[:]
    graph.opset_import.extend(standard)
    return graph


def _nodes_to_round(graph: onnx.GraphProto) -> list[str]:
    """Names of the convolutions after the first few, each with the clipping that follows it."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"][EXACT_CONVOLUTIONS:]
    outputs = {node.output[0] for node in convolutions}
    clips = [node for node in graph.node if node.op_type == "Clip" and node.input[0] in outputs]
    return [node.name for node in (*convolutions, *clips)]


def _name_graph(graph: onnx.ModelProto, model: Segmenter) -> None:
    """The model's facts, but a fingerprint of the graph's own: its embeddings are not the exact encoder's."""
    import onnx

    own = hashlib.sha256(graph.SerializeToString()).hexdigest()[:16]
    facts = graph_facts(model, "encoder") | {"pixels": "normalised", "precision": "int8", "fingerprint": own}
    onnx.helper.set_model_props(graph, facts)


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """Without the root logger's warnings, with which onnxruntime's tools advise what is being done."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
