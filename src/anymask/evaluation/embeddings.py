"""Embeddings kept on disk, so that all experiments encode each image once.

A folder holds MODEL/IMAGE.safetensors: the fingerprint of the weights, the digest of the image file's bytes. Maps are
kept as float16 (1 MB an image for `tiny`, 2 MB for the paper's models), and the least recently used files go when the
folder outgrows its bound.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from anymask.embedding import ImageEmbedding, encode_images
from anymask.errors import EmbeddingError, ImageError
from anymask.model.checkpoints import fingerprint
from anymask.model.segmenter import Segmenter
from anymask.predictor import Predictor

if TYPE_CHECKING:
    from anymask.evaluation.protocol import Segmentable

MAX_BYTES = 8 << 30


def cached_embedding(
    model: Segmenter, image_path: str | Path, folder: str | Path | None, max_bytes: int = MAX_BYTES
) -> ImageEmbedding:
    """The embedding of an image file, from `folder` where it lies, else encoded and put there.

    With a folder it is rounded to float16 also when it is fresh, so that an answer never depends on who came first;
    without one (None) it is as exact as the model. A file that is broken is made anew. The picture itself is not in
    it. Several processes may share a folder. Raises ImageError when the image cannot be read.
    """
    if folder is None:
        return encode_images(model, [image_path])[0]
    path = Path(folder) / fingerprint(model) / f"{_digest(image_path)}.safetensors"
    kept = _load(path, model)
    if kept is None:
        fresh = encode_images(model, [image_path])[0]
        kept = replace(fresh, features=fresh.features.to(torch.device("cpu"), torch.float16), image_hwc=None)
        _save(kept, path, max_bytes)
    return replace(kept, features=kept.features.to(model.device, model.dtype))


def show_image(judged: Segmentable, image_path: str | Path, folder: str | Path | None) -> None:
    """Let whoever is judged look at an image file; a `Predictor` through the embeddings in `folder`."""
    from anymask.data.images import read_image

    if isinstance(judged, Predictor) and folder is not None:
        judged.set_image(cached_embedding(judged.model, image_path, folder))
    else:
        judged.set_image(read_image(image_path))


def _digest(image_path: str | Path) -> str:
    try:
        return hashlib.sha256(Path(image_path).read_bytes()).hexdigest()[:32]
    except OSError as error:
        raise ImageError(f"{image_path}: cannot be read ({error})") from error


def _load(path: Path, model: Segmenter) -> ImageEmbedding | None:
    if not path.exists():
        return None
    try:
        embedding = ImageEmbedding.load(path)
    except EmbeddingError:
        return None
    # The fingerprint is of the weights alone: the same ones at another input size see another picture.
    if embedding.frame != model.frame(embedding.frame.original_hw):
        return None
    os.utime(path)  # used just now
    return embedding


def _save(embedding: ImageEmbedding, path: Path, max_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # its own for each process
    try:
        embedding.save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _make_room(path.parent.parent, max_bytes)


def _make_room(folder: Path, max_bytes: int) -> None:
    """Remove the least recently used files until the rest are within `max_bytes`."""
    files = []
    for path in folder.glob("*/*.safetensors"):
        try:
            files.append((path.stat(), path))
        except FileNotFoundError:  # another process made room
            continue
    total = sum(stat.st_size for stat, _ in files)
    for stat, path in sorted(files, key=lambda entry: entry[0].st_mtime_ns):
        if total <= max_bytes:
            return
        path.unlink(missing_ok=True)
        total -= stat.st_size
