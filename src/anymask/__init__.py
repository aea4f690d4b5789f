"""anymask: promptable image segmentation. Prompt in, masks out.

Names load when first used, so that `import anymask` is quick and pulls in no network library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anymask.errors import (
    AnymaskError,
    CheckpointError,
    DataError,
    DownloadError,
    EmbeddingError,
    ImageError,
    PromptError,
)
from anymask.version import __version__

if TYPE_CHECKING:
    from anymask.data.images import read_image
    from anymask.embedding import ImageEmbedding, encode
    from anymask.generator import MaskGenerator
    from anymask.loading import load_model
    from anymask.predictor import Predictor
    from anymask.prompts import Prompt
    from anymask.records import MaskRecord, Masks

_HOMES = {
    "ImageEmbedding": "anymask.embedding",
    "MaskGenerator": "anymask.generator",
    "MaskRecord": "anymask.records",
    "Masks": "anymask.records",
    "Predictor": "anymask.predictor",
    "Prompt": "anymask.prompts",
    "encode": "anymask.embedding",
    "load_model": "anymask.loading",
    "read_image": "anymask.data.images",
}

__all__ = [
    "AnymaskError",
    "CheckpointError",
    "DataError",
    "DownloadError",
    "EmbeddingError",
    "ImageEmbedding",
    "ImageError",
    "MaskGenerator",
    "MaskRecord",
    "Masks",
    "Predictor",
    "Prompt",
    "PromptError",
    "__version__",
    "encode",
    "load_model",
    "read_image",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'anymask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
