"""The graphs that `load_model(runtime="onnx")` opens, side by side in a folder."""

from __future__ import annotations

from pathlib import Path

from anymask.errors import AnymaskError
from anymask.export.decoder import export_decoder_parts
from anymask.export.encoder import export_encoder
from anymask.model.segmenter import Segmenter
from anymask.runtime.onnx import ENCODER_FILE, PREPARATION_FILE, PROMPTS_FILE


def export_folder(model: Segmenter, folder: str | Path, half_weights: bool = False, overwrite: bool = True) -> Path:
    """Write a model's encoder and decoder into `folder`, which is made; without `overwrite`, what is missing.

    Raises `AnymaskError` when a file cannot be written.
    """
    folder = make_folder(folder)
    if overwrite or not (folder / ENCODER_FILE).is_file():
        export_encoder(model, folder / ENCODER_FILE, half_weights=half_weights)
    if overwrite or not all((folder / name).is_file() for name in (PREPARATION_FILE, PROMPTS_FILE)):
        export_decoder_parts(model, folder, half_weights=half_weights)
    return folder


def make_folder(folder: str | Path) -> Path:
    """The folder, made with those above it if need be. Raises `AnymaskError` when it cannot be."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnymaskError(f"{folder} cannot be made: {error.strerror}") from error
    return folder
