"""The public `load_model`: a model by name or file, on the runtime that computes best where it is to run.

It stands above both `model` and `export`, because onnxruntime needs graphs and only `export` writes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anymask.errors import CheckpointError
from anymask.model import zoo
from anymask.model.cache import cache_folder
from anymask.model.checkpoints import fingerprint
from anymask.model.segmenter import Segmenter
from anymask.runtime import opening
from anymask.version import __version__

if TYPE_CHECKING:
    import torch

RUNTIMES = ("torch", "onnx")


def load_model(
    name_or_path: str | Path = "tiny",
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    runtime: str | None = None,
) -> Segmenter:
    """A model with weights, ready to answer: evaluation mode, no gradients.

    `name_or_path` is a model's name, with its weights from `checkpoint`, the package or the cache; or the path of a
    checkpoint, whose model is found out. Either may be a folder of graphs from `anymask export`. `device` and `dtype`:
    see `model/device.py`. `runtime` is "torch", or "onnx" for onnxruntime on the CPU in float32, whose graphs are
    written once per set of weights into the cache folder; left out it is torch, and onnxruntime for a folder of
    graphs. Raises `CheckpointError` when the name is not known, there are no weights, or they do not fit;
    `AnymaskError` for a device, precision or runtime that this machine lacks.
    """
    if runtime is None:
        return opening.load_model(name_or_path, checkpoint, device, dtype)
    if runtime not in RUNTIMES:
        raise CheckpointError(f"runtime {runtime!r} is not known; allowed are {', '.join(RUNTIMES)}")
    if runtime == "torch":
        return zoo.load_model(name_or_path, checkpoint, device, dtype)
    opening.require_processor(device, dtype)
    if opening.is_graph_folder(name_or_path, checkpoint):
        return opening.load_model(name_or_path, checkpoint, device, dtype)
    return opening.open_graphs(_cached_graphs(zoo.load_model(name_or_path, checkpoint, "cpu")))


def _cached_graphs(model: Segmenter) -> Path:
    """The folder of this model's graphs in the cache, written if need be."""
    from anymask.export.folder import export_folder

    folder = cache_folder() / "onnx" / f"{model.name}-{fingerprint(model)}-{__version__}"
    return export_folder(model, folder, overwrite=False)
