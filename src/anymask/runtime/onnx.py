"""A model whose arithmetic onnxruntime does: graphs behind the face of a `Segmenter`.

Everything above asks a model to `encode` and to `decode`; this one asks its graphs (contracts: `export/encoder.py` and
`export/decoder.py`). Legend: I images, B prompts, M mask outputs, H W model pixels, h w embedding cells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anymask.errors import AnymaskError, CheckpointError
from anymask.model.image_encoder import ImageFeatures
from anymask.model.segmenter import GeneratorDefaults, InputSpec, PromptBatch, Segmenter

ENCODER_FILE = "encoder.onnx"
# The decoder in two parts: what is worked out once for an image, and what for every prompt.
PREPARATION_FILE = "preparation.onnx"
PROMPTS_FILE = "prompts.onnx"
CONTRACTS = {ENCODER_FILE: "encoder-1", PREPARATION_FILE: "preparation-1", PROMPTS_FILE: "prompts-1"}


class OnnxEncoder(nn.Module):
    """An `ImageEncoder` that asks a graph."""

    def __init__(self, session: Any, facts: Mapping[str, str]) -> None:
        super().__init__()
        self.session = session
        self.stride = int(facts["stride"])
        self.embed_dim = int(facts["embed_dim"])
        self.skip_channels: tuple[int, ...] = tuple(json.loads(facts["skip_channels"]))

    def forward(self, pixels: Tensor) -> ImageFeatures:
        maps = self.session.run(None, {"pixels": pixels.contiguous().numpy()})
        embedding, *skips = (torch.from_numpy(values) for values in maps)
        return ImageFeatures(embedding, tuple(skips))


class PromptFacts(nn.Module):
    """What is asked of a prompt encoder from outside, where the graph holds it."""

    def __init__(self, facts: Mapping[str, str]) -> None:
        super().__init__()
        self.has_prompt_maps = facts["has_prompt_maps"] == "true"


class OnnxSegmenter(Segmenter):
    """The graphs of one model, on the CPU in float32."""

    def __init__(self, encoder: Any, preparation: Any, decoder: Any) -> None:
        """From onnxruntime sessions, whose metadata say how images come into the model's frame."""
        nn.Module.__init__(self)  # not Segmenter's: the parts it would hold are in the graphs
        facts = encoder.get_modelmeta().custom_metadata_map
        multiple = facts["pad_multiple"]
        mean, std = (json.loads(facts[name]) for name in ("pixel_mean", "pixel_std"))
        self.name = facts["model"]
        self.input_spec = InputSpec(
            int(facts["longest_side"]), None if multiple == "square" else int(multiple), tuple(mean), tuple(std)
        )
        self.generator_defaults = GeneratorDefaults(
            **{field.name: float(facts[field.name]) for field in fields(GeneratorDefaults) if field.name in facts}
        )
        self.register_buffer("pixel_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(3, 1, 1), persistent=False)
        # Kept in the graph, for there are no weights here to hash; see `checkpoints.fingerprint`.
        self.own_fingerprint = facts["fingerprint"]
        self.image_encoder = OnnxEncoder(encoder, facts)  # type: ignore[assignment]
        self.prompt_encoder = PromptFacts(decoder.get_modelmeta().custom_metadata_map)  # type: ignore[assignment]
        self.preparation = preparation
        self.decoder = decoder
        self._fed: tuple[Tensor, list[dict[str, np.ndarray]]] | None = None

    def prepare(self, features: ImageFeatures) -> ImageFeatures:
        """The features as they are: `decode` keeps what it made of the last ones."""
        return features

    def decode(
        self,
        features: ImageFeatures,
        prompts: PromptBatch,
        iou_thresh: float | None = None,
        outputs: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """See `Segmenter.decode`. The graph takes one image: prompts of several are asked image by image."""
        images = self._image_feeds(features)
        feeds = _prompt_feeds(prompts, features.embedding.shape[-2:])
        batch = len(prompts.labels)
        if len(images) == 1:
            logits, ious = self.decoder.run(["logits", "ious"], images[0] | feeds)
        else:
            index = np.arange(batch) if prompts.image_index is None else prompts.image_index.cpu().numpy()
            rows = [np.flatnonzero(index == image) for image in range(len(images))]
            order = np.argsort(np.concatenate(rows), kind="stable")
            answers = [
                self.decoder.run(["logits", "ious"], image | {name: values[own] for name, values in feeds.items()})
                for image, own in zip(images, rows, strict=True)
                if len(own)
            ]
            logits, ious = (np.concatenate(parts)[order] for parts in zip(*answers, strict=True))
        if iou_thresh is not None:
            logits = logits[(ious[:, 1:] >= iou_thresh).any(axis=1)]
        return torch.from_numpy(logits[:, outputs]), torch.from_numpy(ious)

    def _image_feeds(self, features: ImageFeatures) -> list[dict[str, np.ndarray]]:
        """What the decoder takes of each image, by name. The last are kept: a session of clicks asks for them again."""
        if self._fed is None or self._fed[0] is not features.embedding:
            maps = {"embedding": features.embedding}
            maps |= {f"skip_{index}": skip for index, skip in enumerate(features.skips)}
            arrays = {name: values.contiguous().numpy() for name, values in maps.items()}
            images = [
                {name: values[image : image + 1] for name, values in arrays.items()}
                for image in range(len(features.embedding))
            ]
            self._fed = (features.embedding, [self._prepare(image) for image in images])
        return self._fed[1]

    def _prepare(self, maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [output.name for output in self.preparation.get_outputs()]
        wanted = {port.name for port in self.decoder.get_inputs()}
        made = dict(zip(names, self.preparation.run(names, maps), strict=True))
        return {name: values for name, values in (maps | made).items() if name in wanted}


def _prompt_feeds(prompts: PromptBatch, cells_hw: torch.Size) -> dict[str, np.ndarray]:
    batch = len(prompts.labels)
    if prompts.mask_logits is None:
        masks = np.zeros((batch, 1, 4 * cells_hw[0], 4 * cells_hw[1]), dtype=np.float32)
        has_mask = np.zeros(batch, dtype=np.float32)
    else:
        masks = prompts.mask_logits.float().contiguous().numpy()
        has_mask = np.ones(batch, np.float32) if prompts.has_mask is None else prompts.has_mask.float().numpy()
    return {
        "points_xy": prompts.points_xy.float().contiguous().numpy(),
        "labels": prompts.labels.to(torch.int32).contiguous().numpy(),
        "mask_input": masks,
        "has_mask": has_mask,
    }


def open_graphs(folder: str | Path) -> OnnxSegmenter:
    """The model whose graphs lie in a folder, on as many threads as torch uses.

    Raises `AnymaskError` when onnxruntime is not installed, and `CheckpointError`, naming the file, when a graph is
    missing, broken, of another contract, or of another model than its neighbour.
    """
    folder = Path(folder)
    sessions = {name: _open_session(folder / name) for name in CONTRACTS}
    models = {name: session.get_modelmeta().custom_metadata_map["weights"] for name, session in sessions.items()}
    if len(set(models.values())) > 1:
        whose = ", ".join(f"{name} of {model}" for name, model in models.items())
        raise CheckpointError(f"{folder} holds graphs of several models: {whose}; export all from the same weights")
    return OnnxSegmenter(*sessions.values())


def _open_session(path: Path) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise AnymaskError(
            "runtime 'onnx' needs onnxruntime, which is not installed: pip install 'anymask[export]'"
        ) from error
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; a folder for runtime 'onnx' holds {', '.join(CONTRACTS)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Its threads would wait busily after a run, in the way of torch's, which come next ("measured": a click of `tiny`
    # on two cores 12.5 to 13.6 ms instead of 8.3 to 9.8).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exception types are not public
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is not a graph that onnxruntime can run: {reason}") from error
    contract = session.get_modelmeta().custom_metadata_map.get("contract")
    if contract != CONTRACTS[path.name]:
        raise CheckpointError(f"{path} has the contract {contract}; allowed here is {CONTRACTS[path.name]}")
    pixels = session.get_modelmeta().custom_metadata_map.get("pixels", "normalised")
    if pixels != "normalised":
        raise CheckpointError(f"{path} takes {pixels} pixels; allowed here is an encoder of normalised pixels")
    return session
