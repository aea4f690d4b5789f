"""A model on the runtime that its files are for: a folder of graphs on onnxruntime, everything else on torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anymask.errors import AnymaskError, CheckpointError
from anymask.model import zoo
from anymask.model.segmenter import Segmenter
from anymask.runtime.onnx import open_graphs

if TYPE_CHECKING:
    import torch


def load_model(
    name_or_path: str | Path = "tiny",
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
) -> Segmenter:
    """What `zoo.load_model` takes, or a folder of graphs as either `name_or_path` or `checkpoint`.

    Raises as `zoo.load_model` and `open_graphs` do, and `AnymaskError` for a device or precision that onnxruntime
    does not have here.
    """
    if not is_graph_folder(name_or_path, checkpoint):
        return zoo.load_model(name_or_path, checkpoint, device, dtype)
    require_processor(device, dtype)
    source = name_or_path if checkpoint is None else checkpoint
    model = open_graphs(source)
    if checkpoint is not None and model.name != str(name_or_path):
        raise CheckpointError(f"{source} holds the graphs of {model.name}, not of {name_or_path}")
    return model


def is_graph_folder(name_or_path: str | Path, checkpoint: str | Path | None) -> bool:
    """Whether a folder is meant, and not a model's name: a folder that happens to be called tiny is not one."""
    if checkpoint is not None:
        return Path(checkpoint).is_dir()
    return str(name_or_path) not in zoo.BUILDERS and Path(name_or_path).is_dir()


def require_processor(device: str | torch.device, dtype: str | torch.dtype | None) -> None:
    """Raise `AnymaskError` for anything but a processor and float32: all that onnxruntime is used for here."""
    if str(device) not in ("auto", "cpu"):
        raise AnymaskError(f"device {str(device)!r} is not available with runtime 'onnx'; allowed are auto, cpu")
    if dtype is not None and str(dtype).removeprefix("torch.") != "float32":
        raise AnymaskError(f"dtype {str(dtype)!r} is not available with runtime 'onnx'; allowed is float32")
