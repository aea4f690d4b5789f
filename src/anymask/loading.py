"""The public `load_model`: a model by name or file, on the runtime that computes best where it is to run.

It stands above both `model` and `export`, because onnxruntime needs graphs and only `export` writes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anymask.errors import AnymaskError, CheckpointError
from anymask.model import zoo
from anymask.model.cache import cache_folder
from anymask.model.checkpoints import fingerprint
from anymask.model.segmenter import Segmenter
from anymask.version import __version__

if TYPE_CHECKING:
    import torch

RUNTIMES = ("torch", "onnx")


def load_model(
    name_or_path: str | Path = "tiny",
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    runtime: str = "torch",
) -> Segmenter:
    """A model with weights, ready to answer: evaluation mode, no gradients.

    `name_or_path` is a model's name, with its weights from `checkpoint`, the package or the cache; or the path of a
    checkpoint, whose model is found out. `device` and `dtype`: see `model/device.py`. `runtime` is "torch", or "onnx"
    for onnxruntime on the CPU in float32: its graphs are written once per set of weights into the cache folder, or
    they are in the folder that `name_or_path` or `checkpoint` names. Raises `CheckpointError` when the name is not
    known, there are no weights, or they do not fit; `AnymaskError` for a device, precision or runtime that this
    machine lacks.
    """
    if runtime not in RUNTIMES:
        raise CheckpointError(f"runtime {runtime!r} is not known; allowed are {', '.join(RUNTIMES)}")
    if runtime == "torch":
        return zoo.load_model(name_or_path, checkpoint, device, dtype)
    if str(device) not in ("auto", "cpu"):
        raise AnymaskError(f"device {str(device)!r} is not available with runtime 'onnx'; allowed are auto, cpu")
    if dtype is not None and str(dtype).removeprefix("torch.") != "float32":
        raise AnymaskError(f"dtype {str(dtype)!r} is not available with runtime 'onnx'; allowed is float32")
    from anymask.runtime.onnx import open_graphs

    source = checkpoint if checkpoint is not None else name_or_path
    if Path(source).is_dir():
        model: Segmenter = open_graphs(source)
        if checkpoint is not None and model.name != str(name_or_path):
            raise CheckpointError(f"{source} holds the graphs of {model.name}, not of {name_or_path}")
        return model
    return open_graphs(_cached_graphs(zoo.load_model(name_or_path, checkpoint, "cpu")))


def _cached_graphs(model: Segmenter) -> Path:
    """The folder of this model's graphs in the cache, written if need be."""
    from anymask.export.folder import export_folder

    folder = cache_folder() / "onnx" / f"{model.name}-{fingerprint(model)}-{__version__}"
    return export_folder(model, folder, overwrite=False)
