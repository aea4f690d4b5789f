"""Ready models: the network by name, its weights from the package, the cache or a file, on a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from anymask.errors import CheckpointError
from anymask.model import int8
from anymask.model.checkpoints import (
    detect_variant,
    load_checkpoint,
    read_generator_defaults,
    read_metadata,
    read_state_dict,
)
from anymask.model.device import choose_device, choose_dtype
from anymask.model.prompt_encoder import RandomFourierEncoding
from anymask.model.pull import OFFICIAL, pulled_path
from anymask.model.registry import BUILDERS, build_model
from anymask.model.segmenter import Segmenter

PACKAGED_FOLDER = Path(__file__).parent / "weights"
PACKAGED = {"tiny": "tiny.safetensors"}

SAM_LICENCE = "weights Apache-2.0; trained on SA-1B, whose own licence allows research only"
LICENCES = {
    "tiny": (
        "for non-commercial use: trained on BSDS500 (non-commercial research), CamVid (CC BY-NC), COCO "
        "(annotations CC BY 4.0, photos under Flickr's terms), CCP, feral cats, DSB2018 and photographs for research "
        "whose masks MobileSAM drew; its embeddings of all these and answers to clicks taught it too (weights "
        "Apache-2.0, taught by SAM on a part of SA-1B); the image encoder started from EfficientNet-Lite0's ImageNet "
        "weights (Apache-2.0)"
    ),
    "tiny_narrow": "no weights",
    "conv": "no weights",
    "vit_b": SAM_LICENCE,
    "vit_l": SAM_LICENCE,
    "vit_h": SAM_LICENCE,
    "mobile_sam": "weights Apache-2.0; taught by SAM on a part of SA-1B, whose own licence allows research only",
}
ORIGINS = {
    "tiny": "trained by this project, part of the package",
    "tiny_narrow": "tiny at half the width, for ablations, without weights",
    "conv": "an example of another image encoder, without weights",
}


def load_model(
    name_or_path: str | Path = "tiny",
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
) -> Segmenter:
    """A torch model with weights, ready to answer: evaluation mode, no gradients, channels last.

    `name_or_path` is a model's name, with its weights from `checkpoint`, the package or the cache; or the
    path of a checkpoint, whose model is found out. `device` and `dtype`: see `device.py`. The Fourier matrix
    stays float32 in every precision, because coordinates pass through it. Raises `CheckpointError` when the
    name is not known, there are no weights, or they do not fit; `AnymaskError` for a device or precision that
    this machine lacks.
    """
    chosen_device = choose_device(device)
    chosen_dtype = choose_dtype(dtype, chosen_device)
    name, weights = _find_weights(name_or_path, checkpoint)
    with _SkipInitialisation():
        model = build_model(name)
        if _has_int8_weights(weights):
            int8.require_processor(chosen_device, chosen_dtype)
            int8.replace_linear_layers(model.image_encoder, rounded=False)
    load_checkpoint(model, weights)
    model.generator_defaults = read_generator_defaults(name_or_path if isinstance(weights, Mapping) else weights)
    model.eval().requires_grad_(False)
    fourier = {
        part: part.positional_encoding_gaussian_matrix
        for part in model.modules()
        if isinstance(part, RandomFourierEncoding)
    }
    model.to(device=chosen_device, dtype=chosen_dtype)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part, matrix in fourier.items():
        part.positional_encoding_gaussian_matrix = matrix.to(chosen_device)
    return model


def model_info(name: str) -> dict[str, Any]:
    """What there is to know of a model without loading its weights.

    Keys: name, parameters, input_size (longest side in pixels), stride, embed_dim, weights ("packaged",
    "pulled", "not here" or "none"), path (of the weights, or None), metadata (what the file says of its
    making), origin, download_megabytes (or None), licence. Raises `CheckpointError` for an unknown name.
    """
    with _SkipInitialisation():
        model = build_model(name)
    path = weights_path(name)
    is_here = path is not None and path.is_file()
    return {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "input_size": model.input_spec.longest_side,
        "stride": model.image_encoder.stride,
        "embed_dim": model.image_encoder.embed_dim,
        "weights": _where(name, is_here),
        "path": str(path) if is_here else None,
        "metadata": read_metadata(path) if path is not None and is_here else {},
        "origin": OFFICIAL[name].url if name in OFFICIAL else ORIGINS[name],
        "download_megabytes": OFFICIAL[name].megabytes if name in OFFICIAL else None,
        "licence": LICENCES[name],
    }


def _where(name: str, is_here: bool) -> str:
    if name not in PACKAGED and name not in OFFICIAL:
        return "none"
    if not is_here:
        return "not here"
    return "packaged" if name in PACKAGED else "pulled"


def weights_path(name: str) -> Path | None:
    """Where the weights of a named model lie, or would lie once pulled; None where there are none."""
    if name in PACKAGED:
        return PACKAGED_FOLDER / PACKAGED[name]
    return pulled_path(name) if name in OFFICIAL else None


def _find_weights(
    name_or_path: str | Path, checkpoint: str | Path | None
) -> tuple[str, str | Path | Mapping[str, Tensor]]:
    """The model's name, and the file or the tensors to load into it."""
    if str(name_or_path) not in BUILDERS:
        return _name_from_file(Path(name_or_path), checkpoint)
    name = str(name_or_path)
    if checkpoint is not None:
        return name, checkpoint
    path = weights_path(name)
    if path is None:
        raise CheckpointError(f"model {name!r} comes without weights; pass checkpoint=")
    if path.is_file():
        return name, path
    if name in PACKAGED:
        raise CheckpointError(f"the weights of {name} are not in the package: no {path}; pass checkpoint=")
    raise CheckpointError(
        f"the weights of {name} are not here: no {path}; run `anymask models pull {name}` or pass checkpoint="
    )


def _has_int8_weights(weights: str | Path | Mapping[str, Tensor]) -> bool:
    return not isinstance(weights, Mapping) and int8.METADATA_KEY in read_metadata(weights)


def _name_from_file(path: Path, checkpoint: str | Path | None) -> tuple[str, str | Path | Mapping[str, Tensor]]:
    if checkpoint is not None or not (path.exists() or path.suffix or len(path.parts) > 1):
        raise CheckpointError(
            f"model {str(path)!r} is not known; allowed are {', '.join(BUILDERS)}, or the path of a checkpoint alone"
        )
    name = read_metadata(path).get("model")
    if name in BUILDERS:
        return name, path
    state = read_state_dict(path)
    found = detect_variant(state)
    if found is None:
        raise CheckpointError(
            f"{path} does not look like the weights of any model here; pass the model's name, one of "
            f"{', '.join(BUILDERS)}, and checkpoint="
        )
    return found, state


class _SkipInitialisation(TorchFunctionMode):
    """Leaves parameters uninitialised that a checkpoint is about to fill.

    Drawing random ones takes 40 ms for tiny and 8 s for ViT-H ("measured").
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        is_initialiser = getattr(func, "__module__", None) == "torch.nn.init"
        if is_initialiser or func in (torch.Tensor.uniform_, torch.Tensor.normal_):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
