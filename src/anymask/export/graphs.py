"""Writing a traced module as one ONNX file: standard operators, facts about the model inside, atomically."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from anymask.errors import AnymaskError
from anymask.model.checkpoints import fingerprint
from anymask.model.segmenter import Segmenter
from anymask.version import __version__

if TYPE_CHECKING:
    import onnx

# What onnxruntime, its WebAssembly build and others all run; the newest version that the tracing exporter is made for.
OPSET = 17
# Changes whenever inputs or outputs of a graph change their names, shapes or meaning.
CONTRACT_VERSION = 1
# A protocol buffer's limit, less some for the graph itself.
MOST_BYTES = 2_000_000_000
# Constants with fewer numbers stay float32: they weigh nothing, and coordinates pass through the Fourier matrix.
FEWEST_HALVED = 1024


@dataclass(frozen=True)
class Port:
    """An input or output: its name, and names for the axes whose length may change, by axis."""

    name: str
    dynamic_axes: Mapping[int, str]


def write_graph(
    module: nn.Module,
    examples: Sequence[Tensor],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    path: str | Path,
    metadata: Mapping[str, str],
    half_weights: bool = False,
) -> Path:
    """Trace `module` with example inputs and write it to `path`, with `metadata` as the graph's properties.

    `half_weights` stores the weights as float16, which halves the file; runtimes turn them to float32 at loading,
    and compute as before. Raises `AnymaskError` when the folder is missing or cannot be written to, or the weights are
    too many for one file.
    """
    path = Path(path)
    graph = trace_graph(module, examples, inputs, outputs, path)
    finish_graph(graph, path, metadata, half_weights)
    return path


def trace_graph(
    module: nn.Module, examples: Sequence[Tensor], inputs: Sequence[Port], outputs: Sequence[Port], path: Path
) -> onnx.ModelProto:
    """`module` as a graph that is to be written to `path`; see `write_graph`."""
    import onnx

    if not path.parent.is_dir():
        raise AnymaskError(f"{path} cannot be written: there is no folder {path.parent}")
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if num_bytes > MOST_BYTES:
        raise AnymaskError(f"{path}: {num_bytes / 1e9:.1f} GB of weights; an ONNX file holds at most 2 GB")
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of every shape that becomes a constant; parity tests judge
        torch.onnx.export(
            module.eval(),
            tuple(examples),
            buffer,  # type: ignore[arg-type]  # any file object will do
            input_names=[port.name for port in inputs],
            output_names=[port.name for port in outputs],
            dynamic_axes={port.name: dict(port.dynamic_axes) for port in (*inputs, *outputs) if port.dynamic_axes},
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_model_from_string(buffer.getvalue())


def finish_graph(graph: onnx.ModelProto, path: Path, metadata: Mapping[str, str], half_weights: bool) -> None:
    """Name the graph, halve its weights if that is wanted and write it; see `write_graph`."""
    from onnx import helper

    helper.set_model_props(graph, dict(metadata))
    if half_weights:
        halve_weights(graph)
    save_graph(graph, path)


def halve_weights(graph: onnx.ModelProto) -> None:
    """Store large float32 weights as float16, each with a cast back, which runtimes do once, at loading."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in graph.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < FEWEST_HALVED:
            continue
        values = numpy_helper.to_array(weight)
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [weight.name], [name], f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def save_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Write an `onnx.ModelProto`, whole or not at all. Raises `AnymaskError` when the file cannot be written."""

    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(graph.SerializeToString())
        os.replace(partial, path)
    except OSError as error:
        raise AnymaskError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def graph_facts(model: Segmenter, kind: str) -> dict[str, str]:
    """What every graph says of itself, as strings: whose it is, and how an image comes into the model's frame."""
    spec = model.input_spec
    own = fingerprint(model)
    return {
        "anymask": __version__,
        "contract": f"{kind}-{CONTRACT_VERSION}",
        "model": model.name,
        # Whose weights, and whose embeddings: the second becomes another when a graph computes with rounded weights.
        "weights": own,
        "fingerprint": own,
        "longest_side": str(spec.longest_side),
        "pad_multiple": "square" if spec.pad_multiple is None else str(spec.pad_multiple),
        "pixel_mean": json.dumps(spec.pixel_mean),
        "pixel_std": json.dumps(spec.pixel_std),
        "stride": str(model.image_encoder.stride),
        "embed_dim": str(model.image_encoder.embed_dim),
        "skip_channels": json.dumps(model.image_encoder.skip_channels),
        "has_prompt_maps": json.dumps(model.prompt_encoder.has_prompt_maps),
        **{name: str(value) for name, value in asdict(model.generator_defaults).items()},
    }


def example_cells(model: Segmenter) -> tuple[int, int]:
    """Height and width in cells of an example: not square where the model need not be, so that no axis is mixed up."""
    side, stride = model.input_spec.longest_side, model.image_encoder.stride
    height, width = model.frame((side * 3 // 4, side)).padded_hw
    return height // stride, width // stride


def example_features(model: Segmenter) -> list[Tensor]:
    """Made-up features of one image: the embedding, then the skip maps."""
    height, width = example_cells(model)
    encoder = model.image_encoder
    channels = (encoder.embed_dim, *encoder.skip_channels)
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, count, height << level, width << level, generator=generator)
        for level, count in enumerate(channels)
    ]


def example_prompts(model: Segmenter) -> list[Tensor]:
    """Made-up prompts, ragged: points_xy (3, 4, 2), labels (3, 4), mask_input (3, 1, 4h, 4w), has_mask (3,)."""
    height, width = example_cells(model)
    generator = torch.Generator().manual_seed(1)
    extent = torch.tensor([width, height]) * model.image_encoder.stride
    points_xy = torch.rand(3, 4, 2, generator=generator) * extent
    labels = torch.tensor([[1, -1, -2, -2], [0, 1, 2, 3], [1, 0, -1, -2]], dtype=torch.int32)
    points_xy[1, 2:] = torch.tensor([[0.2, 0.3], [0.7, 0.9]]) * extent
    mask_input = 4 * torch.randn(3, 1, 4 * height, 4 * width, generator=generator)
    return [points_xy, labels, mask_input, torch.tensor([0.0, 1.0, 1.0])]


def feature_ports(model: Segmenter, images: str | None = "images") -> list[Port]:
    """The feature maps by name; `images` names their first axis, None fixes it at one image."""
    is_square = model.input_spec.pad_multiple is None
    names = ["embedding", *(f"skip_{index}" for index in range(len(model.image_encoder.skip_channels)))]
    ports = []
    for level, name in enumerate(names):
        finer = f"_x{1 << level}" if level else ""
        axes = {} if is_square else {2: f"cells_high{finer}", 3: f"cells_wide{finer}"}
        ports.append(Port(name, axes if images is None else {0: images} | axes))
    return ports
