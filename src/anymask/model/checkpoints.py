"""Weights on disk: reading what users have, naming what is wrong with it, writing our own files.

Read are official `.pth` files, `.safetensors`, and Hugging Face's `SamModel` in either. What a file is, its
first bytes say, not its name. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anymask.errors import CheckpointError
from anymask.model.huggingface import from_huggingface, is_from_huggingface
from anymask.model.segmenter import GeneratorDefaults, Segmenter
from anymask.version import __version__

# Where users' files keep the state dict when it is not the whole file.
NESTINGS = ("model", "state_dict", "model_state_dict")
# Width and depth of the paper's image encoders (paper A).
VIT_SHAPES = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
TINY_WIDTHS = {192: "tiny", 96: "tiny_narrow"}
# The reference once saved these constants; a model here has them from its input specification.
PIXEL_CONSTANTS = ("pixel_mean", "pixel_std")
# MobileSAM's file still has the classifier that its encoder was taught with.
UNUSED_PREFIXES = ("image_encoder.norm_head.", "image_encoder.head.")
SECOND_LOOK = "mask_decoder.second_look."
SHOWN_KEYS = 3


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.pth`, `.pt` or `.safetensors` file on the CPU, by the names they have in the file.

    A state dict nested under "model", "state_dict" or "model_state_dict" is found. Raises `CheckpointError`,
    which names the file, when it is missing, a folder, empty, cut short, not a checkpoint, or holds code.
    """
    path = Path(path)
    start = _first_bytes(path)
    if _is_safetensors(path, start):
        return _read_safetensors(path)
    if start.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path} is cut short: its end, which lists the tensors, is missing")
        return _find_tensors(path, _torch_load(path, mmap=True))
    if start.startswith(b"\x80"):
        return _find_tensors(path, _torch_load(path, mmap=False))
    raise CheckpointError(
        f"{path} is not a checkpoint: it begins with {start[:16]!r}; allowed are .pth, .pt and .safetensors files"
    )


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a `.safetensors` file; empty for `.pth` files. Raises `CheckpointError`."""
    path = Path(path)
    if not _is_safetensors(path, _first_bytes(path)):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(_safetensors_fault(path, error)) from error


def read_generator_defaults(path: str | Path) -> GeneratorDefaults:
    """The thresholds that a weights file brings for automatic generation; the paper's where it brings none.

    Raises `CheckpointError`, naming the file, for a threshold that is not a number from 0 to 1.
    """
    metadata = read_metadata(path)
    found = {}
    for name in asdict(GeneratorDefaults()):
        if name in metadata:
            try:
                found[name] = float(metadata[name])
            except ValueError:
                found[name] = float("nan")
            if not 0 <= found[name] <= 1:
                raise CheckpointError(f"{path} has {name} {metadata[name]!r} in its metadata; allowed: 0 to 1")
    return GeneratorDefaults(**found)


def set_generator_defaults(path: str | Path, defaults: GeneratorDefaults) -> None:
    """Write thresholds for automatic generation into a `.safetensors` file; weights and other metadata stay.

    Raises `CheckpointError` when the file is anything else.
    """
    path = Path(path)
    if not _is_safetensors(path, _first_bytes(path)):
        raise CheckpointError(f"{path} cannot hold thresholds; allowed is a .safetensors file")
    facts = read_metadata(path) | _thresholds(defaults)
    _save_atomically(_read_safetensors(path), path, facts)


def _thresholds(defaults: GeneratorDefaults) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(defaults).items()}


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; a checkpoint is one .pth, .pt or .safetensors file")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise CheckpointError(f"{path} is empty (0 bytes)")
    return start


def _is_safetensors(path: Path, start: bytes) -> bool:
    """By its ending, or by the length of a header and the brace that opens it."""
    return path.suffix == ".safetensors" or start[8:9] == b"{"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(_safetensors_fault(path, error)) from error


def _safetensors_fault(path: Path, error: SafetensorError) -> str:
    reason = str(error)
    squeezed = reason.lower().replace(" ", "")  # the library's wording, of old and new versions
    is_cut = any(word in squeezed for word in ("headertoosmall", "invalidheaderlength", "incomplete"))
    return f"{path} is {'cut short' if is_cut else 'not a safetensors file'}: {reason}"


def _torch_load(path: Path, mmap: bool) -> object:
    """What the file holds, by torch's restricted unpickler, which builds tensors and plain containers only.

    torch's own messages advise to load the file unrestricted; they are not passed on.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is not None:
            fault = f"holds code ({refused[1]}), which was not executed"
        else:
            fault = "is a pickle that torch.save did not write; it may hold code, which was not executed"
    except (EOFError, IndexError, struct.error):
        fault = "is cut short: it ends before its tensors do"
    except Exception as error:  # what torch raises for damaged bytes is not documented
        reason = " ".join(str(error).split()) or type(error).__name__
        if "TorchScript" in reason:
            fault = "is a TorchScript archive, which holds code"
        elif "unexpected EOF" in reason:
            fault = "is cut short: it ends before its tensors do"
        else:
            fault = f"is damaged, or was not written by torch.save ({reason[:120]})"
    raise CheckpointError(f"{path} {fault}; allowed is a file with the state dict's tensors alone")


def _find_tensors(path: Path, content: object) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for nesting in NESTINGS:
            if isinstance(content.get(nesting), Mapping):
                content = content[nesting]
                break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds {_kind(content)}; allowed is a mapping of names to tensors")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds {_kind(value)} under {key!r}; allowed is a mapping of names to "
                f"tensors, alone or under one of {', '.join(NESTINGS)}"
            )
    if not content:
        raise CheckpointError(f"{path} holds no tensors")
    return dict(content)


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def to_reference_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Any state dict under the reference's keys.

    Taken away are a wrapper's prefix, Hugging Face's names, and the pixel constants that old files carry.
    """
    renamed = dict(state)
    for prefix in ("module.", "_orig_mod."):  # left by data-parallel training and by torch.compile
        if renamed and all(key.startswith(prefix) for key in renamed):
            renamed = {key.removeprefix(prefix): tensor for key, tensor in renamed.items()}
    if is_from_huggingface(renamed):
        renamed = from_huggingface(renamed)
    return {
        key: tensor
        for key, tensor in renamed.items()
        if key not in PIXEL_CONSTANTS and not key.startswith(UNUSED_PREFIXES)
    }


def detect_variant(state: Mapping[str, Tensor]) -> str | None:
    """The name of the model that these weights belong to, or None. A ViT is known by its width and depth."""
    state = to_reference_keys(state)
    vit_shape = _vit_shape(state)
    if vit_shape is not None:
        return VIT_SHAPES.get(vit_shape)
    if "image_encoder.stem.weight" in state and "image_encoder.lateral32.weight" in state:
        return TINY_WIDTHS.get(state["image_encoder.lateral32.weight"].shape[0])
    if "image_encoder.patch_embed.seq.0.c.weight" in state:
        return "mobile_sam"
    if "image_encoder.stages.0.conv1.weight" in state:
        return "conv"
    return None


def _vit_shape(state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Width and depth of the ViT in a state dict with the reference's keys."""
    patches = state.get("image_encoder.patch_embed.proj.weight")
    if patches is None or patches.ndim != 4:
        return None
    blocks = {int(match[1]) for key in state if (match := re.match(r"image_encoder\.blocks\.(\d+)\.", key))}
    return patches.shape[0], len(blocks)


def load_checkpoint(model: Segmenter, path_or_state: str | Path | Mapping[str, Tensor], strict: bool = True) -> None:
    """Copy weights into the model, in the model's own precision and on its device.

    `path_or_state` is a file (see `read_state_dict`) or a state dict, with the reference's or Hugging Face's
    keys. `strict=False` lets keys be missing or unknown, as long as some fit; shapes must always fit. Raises
    `CheckpointError` that says which variant was found and which was wanted, or which keys do not fit; the
    model is unchanged then.
    """
    if isinstance(path_or_state, Mapping):
        origin, state = "the state dict", to_reference_keys(path_or_state)
    else:
        origin, state = str(path_or_state), to_reference_keys(read_state_dict(path_or_state))
    wanted = model.state_dict()
    # Files from before there was a second look load as with one that changes nothing.
    is_older = not any(key.startswith(SECOND_LOOK) for key in state)
    missing = [key for key in wanted if key not in state and not (is_older and key.startswith(SECOND_LOOK))]
    unexpected = [key for key in state if key not in wanted]
    misshapen = [key for key in state if key in wanted and state[key].shape != wanted[key].shape]
    has_foreign_keys = bool(missing or unexpected) if strict else len(unexpected) == len(state)
    if not (has_foreign_keys or misshapen):
        model.load_state_dict(state, strict=False)
        if is_older and model.mask_decoder.second_look is not None:
            model.mask_decoder.second_look.forget()
        return
    found = detect_variant(state)
    if found is not None and found != model.name:
        raise CheckpointError(f"{origin} holds the weights of {found}{_size_note(state)}, not of {model.name}")
    faults = []
    if has_foreign_keys:
        faults += [_name_some("misses", missing), _name_some("has the unknown", unexpected)]
    if misshapen:
        shapes = [f"{k} {tuple(state[k].shape)} for {tuple(wanted[k].shape)}" for k in misshapen]
        faults.append(_name_some("has the wrong shape in", shapes))
    listed = "; ".join(fault for fault in faults if fault)
    raise CheckpointError(f"{origin}{_size_note(state)} does not fit {model.name}: it {listed}")


def _size_note(state: Mapping[str, Tensor]) -> str:
    shape = _vit_shape(state)
    return "" if shape is None else f" (a ViT {shape[0]} wide and {shape[1]} deep)"


def _name_some(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    rest = "" if len(names) <= SHOWN_KEYS else ", ..."
    plural = "" if len(names) == 1 else "s"
    return f"{verb} {len(names)} key{plural}: {', '.join(names[:SHOWN_KEYS])}{rest}"


def save_checkpoint(
    model: Segmenter,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write the model's weights as safetensors, parameters in `dtype`, under the reference's keys.

    Buffers stay float32: the random Fourier matrix multiplies coordinates, and half precision would move
    points. `metadata` is kept beside the model's name, the version that wrote it and the model's own
    `generator_defaults`, where they are not the paper's. A file of that name is replaced at once when the new
    one is whole. Raises `CheckpointError` for a weight that is not finite, or would not be in `dtype`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    parameters = dict(model.named_parameters())
    tensors = {}
    for key, tensor in model.state_dict().items():
        kept_dtype = dtype if key in parameters else torch.float32
        stored = tensor.to(kept_dtype) if tensor.is_floating_point() else tensor
        if not stored.isfinite().all():
            raise CheckpointError(f"{path} was not written: {key} has values that are not finite as {kept_dtype}")
        tensors[key] = stored.detach().cpu().contiguous()
    facts = {"model": model.name, "anymask": __version__}
    if model.generator_defaults != GeneratorDefaults():
        facts |= _thresholds(model.generator_defaults)
    _save_atomically(tensors, path, {**facts, **(metadata or {})})


def _save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata=metadata)
        partial.chmod(0o644)  # the library makes files that their owner alone can read
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """16 hex digits that change with any weight: a SHA-256 over names, shapes and float32 values.

    The model's device and memory layout do not matter. Hashing costs 17 ms for tiny and 2 s for ViT-H
    ("measured"), so the answer is kept on the model, together with where each tensor lies, how often it was
    written to and what it sums to; it is worked out anew when any of these has changed (3 ms, ViT-H 0.1 s).
    """
    own = getattr(model, "own_fingerprint", None)
    if own is not None:  # a model of another runtime, which has no weights to hash
        return own
    tensors = sorted(model.state_dict().items())
    witness = _witness([tensor for _, tensor in tensors])
    kept = getattr(model, "_fingerprint", None)
    if kept is not None and kept[0] == witness:
        return kept[1]
    digest = hashlib.sha256()
    for key, tensor in tensors:
        digest.update(f"{key} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)
    answer = digest.hexdigest()[:16]
    model._fingerprint = (witness, answer)  # type: ignore[assignment]
    return answer


def _witness(tensors: list[Tensor]) -> tuple[object, ...]:
    """What changes when weights do. Writing through `.data` leaves the version as it is, hence the sums."""
    sums = torch.stack([tensor.sum(dtype=torch.float32).cpu() for tensor in tensors]).tolist()
    versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
    return ([tensor.data_ptr() for tensor in tensors], versions, sums)
