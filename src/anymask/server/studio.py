"""Model work for annotators: embeddings ahead of them, decoding where the page can't, and the decoder's graph.

Embeddings are stored as float16, and server and page both decode from those, so both give the same masks. Every job
runs in one of two threads, so that API calls without model work never wait for it.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from anymask.embedding import ImageEmbedding, encode_images
from anymask.errors import AnymaskError, ImageError
from anymask.geometry.resize import Frame
from anymask.geometry.rle import encode_rle, rle_area, rle_to_box_xywh
from anymask.model.checkpoints import fingerprint
from anymask.model.segmenter import Segmenter
from anymask.predictor import Predictor
from anymask.records import Masks
from anymask.server.errors import RefusedError, computing, invalid
from anymask.server.schemas import DecodeIn, DecodeOut, MaskOut, PromptIn, RleOut
from anymask.server.worker import Worker

log = logging.getLogger("anymask.server")

ASKED, AHEAD = 1, 2  # urgencies of encoding
# More images than that are not queued ahead of annotators; an image that is asked for always finds a place.
MAX_AHEAD = 64


@dataclass(frozen=True)
class Picture:
    """An image file that is to be encoded. witness changes when the file does."""

    id: int
    path: Path
    witness: str

    @property
    def key(self) -> str:
        return f"{self.id}-{hashlib.sha256(self.witness.encode()).hexdigest()[:12]}"


class Studio:
    """One model at work for one folder; `cache` keeps what it computed. Use from any thread."""

    def __init__(self, model: Segmenter, cache: Path, *, max_cache_bytes: int = 4 << 30, in_memory: int = 12) -> None:
        self.model = model
        self.fingerprint = fingerprint(model)
        self._folder = cache / "embeddings" / self.fingerprint
        self._decoder_folder = cache / "decoders" / self.fingerprint
        self._max_cache_bytes = max_cache_bytes
        self._encoder = Worker("anymask-encoder", limit=4 * MAX_AHEAD)
        self._decoder = Worker("anymask-decoder", limit=32)
        self._predictor = Predictor(model)
        self._lock = threading.Lock()
        self._queued: dict[str, int] = {}  # key to urgency
        self._failed: dict[str, str] = {}
        self._loaded: OrderedDict[str, ImageEmbedding] = OrderedDict()
        self._in_memory = in_memory
        self._decoder_state: str | None = None  # None, "building", "ready", or why there is none

    def frame(self, size_hw: tuple[int, int]) -> Frame:
        """Where an image of this size lies in the model's input."""
        return self.model.frame(size_hw)

    def state(self, picture: Picture) -> str:
        """Of the picture's embedding: ready, queued, failed or none."""
        if self._path(picture).is_file():
            return "ready"
        if picture.key in self._failed:
            return "failed"
        return "queued" if picture.key in self._queued else "none"

    def prepare(self, pictures: Sequence[Picture]) -> None:
        """See to it that these embeddings will be there, when there is time."""
        for picture in pictures:
            if len(self._queued) < MAX_AHEAD:
                self._ask(picture, AHEAD)

    def embedding_file(self, picture: Picture) -> Path:
        """The stored embedding. Refused with 202 while it is being made, and with 422 when it can't be."""
        path = self._path(picture)
        if path.is_file():
            return path
        if reason := self._failed.get(picture.key):
            raise invalid(reason)
        self._ask(picture, ASKED)
        raise computing("the embedding is being computed")

    def decode(self, picture: Picture, prompt: DecodeIn) -> DecodeOut:
        """The masks of a prompt about a picture of the folder; refused like `embedding_file`, and when it can't be."""
        path = self.embedding_file(picture)
        return self._decoder.do(lambda: self._decode(picture, path, prompt))

    def segment(self, image_hwc: np.ndarray, prompts: Sequence[PromptIn]) -> tuple[float, list[list[MaskOut]]]:
        """The masks of several prompts about a picture of nobody's, and the milliseconds that it took."""
        return self._encoder.do(lambda: self._segment(image_hwc, prompts), ASKED)

    def decoder_missing(self) -> str | None:
        """Why the page cannot decode itself, or None when it can."""
        if self._decoder_state not in (None, "building", "ready"):
            return self._decoder_state
        for package in ("onnx", "anymask.export.decoder"):
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed on the server"
        return None

    def decoder_file(self, part: str) -> Path:
        """A part of the decoder as an ONNX graph. Refused with 202 while it is written, with 404 if there is none."""
        if reason := self.decoder_missing():
            raise RefusedError(404, "no_decoder", reason)
        with self._lock:
            if self._decoder_state is None:
                self._decoder_state = "building"
                self._decoder.submit(self._build_decoder)
        if self._decoder_state != "ready":
            raise computing("the decoder's graphs are being written", 0.5)
        return self._decoder_folder / f"{part}.onnx"

    def close(self) -> None:
        """Finish what is in hand and stop."""
        self._encoder.close()
        self._decoder.close()

    def _path(self, picture: Picture) -> Path:
        return self._folder / f"{picture.key}.safetensors"

    def _ask(self, picture: Picture, urgency: int) -> None:
        key = picture.key
        with self._lock:
            if self._queued.get(key, urgency + 1) <= urgency or key in self._failed or self._path(picture).is_file():
                return
            # Asked for twice, first ahead and then at once: the later, more urgent job finds it or makes it.
            self._encoder.submit(lambda: self._encode(picture), urgency)
            self._queued[key] = urgency

    def _encode(self, picture: Picture) -> None:
        path = self._path(picture)
        try:
            if not path.is_file():
                self._folder.mkdir(parents=True, exist_ok=True)
                whole = encode_images(self.model, [picture.path])[0]
                features = whole.features.to(self.model.device, torch.float16)
                ImageEmbedding(features, whole.frame, whole.fingerprint).save(path)
                self._trim()
        except AnymaskError as error:
            self._failed[picture.key] = str(error).replace(str(picture.path), picture.path.name)
        except Exception as error:
            log.exception("cannot encode %s", picture.path)
            self._failed[picture.key] = f"{picture.path.name} cannot be encoded ({type(error).__name__})"
        finally:
            with self._lock:
                self._queued.pop(picture.key, None)

    def _trim(self) -> None:
        """Delete the embeddings that were made first when all together are too large; they can be made again."""
        files = [(path.stat().st_mtime, path.stat().st_size, path) for path in self._folder.glob("*.safetensors")]
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._max_cache_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _decode(self, picture: Picture, path: Path, prompt: DecodeIn) -> DecodeOut:
        start = time.perf_counter()
        embedding = self._loaded.get(picture.key)
        if embedding is None:
            try:
                embedding = ImageEmbedding.load(path)
            except AnymaskError as error:
                path.unlink(missing_ok=True)  # cut off by a full disk, say: it is made again
                raise computing("the embedding was broken and is computed again") from error
            self._loaded[picture.key] = embedding
        self._loaded.move_to_end(picture.key)
        while len(self._loaded) > self._in_memory:
            self._loaded.popitem(last=False)
        self._predictor.set_image(embedding)
        masks = self._answer(self._predictor, prompt, prompt.best_only, prompt.return_logits)
        return DecodeOut(fingerprint=self.fingerprint, ms=(time.perf_counter() - start) * 1000, masks=masks)

    def _segment(self, image_hwc: np.ndarray, prompts: Sequence[PromptIn]) -> tuple[float, list[list[MaskOut]]]:
        start = time.perf_counter()
        predictor = Predictor(self.model)
        try:
            predictor.set_image(image_hwc)
        except ImageError as error:
            raise invalid(f"image: {error}") from error
        answers = [self._answer(predictor, prompt) for prompt in prompts]
        return (time.perf_counter() - start) * 1000, answers

    def _answer(
        self, predictor: Predictor, prompt: PromptIn, best_only: bool = False, with_logits: bool = False
    ) -> list[MaskOut]:
        assert predictor.embedding is not None
        height, width = predictor.embedding.features.embedding.shape[-2:]
        try:
            masks = predictor.predict(
                points=prompt.points or None,
                labels=prompt.labels or None,
                box=prompt.box,
                mask_logits=_read_logits(prompt.mask_logits, (4 * height, 4 * width)),
                multimask=prompt.multimask,
            )
        except AnymaskError as error:
            raise invalid(str(error)) from error
        return [_mask_out(masks, index, with_logits) for index in range(1 if best_only else len(masks))]

    def _build_decoder(self) -> None:
        from anymask.export.decoder import export_decoder_parts

        try:
            self._decoder_folder.mkdir(parents=True, exist_ok=True)
            export_decoder_parts(self.model, self._decoder_folder)
            self._decoder_state = "ready"
        except Exception as error:
            log.exception("cannot write the decoder's graphs")
            self._decoder_state = f"the decoder of {self.model.name} cannot be exported ({type(error).__name__})"


def _mask_out(masks: Masks, index: int, with_logits: bool) -> MaskOut:
    mask_hw = masks.best if index == 0 else masks[index]
    rle = encode_rle(mask_hw)
    packed = base64.b64encode(masks.logits[index].astype("<f2").tobytes()).decode() if with_logits else None
    return MaskOut(
        segmentation=RleOut(size=rle["size"], counts=rle["counts"]),
        score=float(masks.scores[index]),
        token_index=int(masks.token_index[index]),
        area=rle_area(rle),
        bbox=list(rle_to_box_xywh(rle)),
        mask_logits=packed,
    )


def _read_logits(packed: str | None, size_hw: tuple[int, int]) -> np.ndarray | None:
    if packed is None:
        return None
    allowed = f"base64 of {size_hw[0]}x{size_hw[1]} little-endian float16 numbers"
    try:
        raw = base64.b64decode(packed, validate=True)
    except ValueError as error:
        raise invalid(f"mask_logits is not base64; allowed: {allowed}") from error
    if len(raw) != 2 * size_hw[0] * size_hw[1]:
        raise invalid(f"mask_logits holds {len(raw)} bytes; allowed: {allowed}")
    return np.frombuffer(raw, dtype="<f2").reshape(size_hw).astype(np.float32)
