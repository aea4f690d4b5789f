"""Which device and precision to compute on."""

from __future__ import annotations

import torch

from anymask.errors import AnymaskError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def available_devices() -> list[str]:
    """The devices of this machine, best first: each "cuda:N", "mps", and always "cpu"."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [f"cuda:{index}" for index in range(count)]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """A device of this machine by name: "auto" (the best there is), "cpu", "cuda", "cuda:1" or "mps".

    Raises `AnymaskError` that names the value and the devices that are there.
    """
    there = available_devices()
    if device == "auto":
        return torch.device(there[0])
    wanted = str(device)
    if wanted == "cuda" and "cuda:0" in there:
        return torch.device("cuda")
    if wanted in there:
        return torch.device(wanted)
    raise AnymaskError(f"device {wanted!r} is not available; this machine has {', '.join(there)} (or 'auto')")


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The precision by name; None is float32 on every device, which gives the reference's numbers.

    Raises `AnymaskError` for anything but float32, float16 and bfloat16, and for a GPU without bfloat16.
    """
    if dtype is None:
        return torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise AnymaskError(f"dtype {dtype!r} is not allowed; allowed are {', '.join(DTYPES)}")
    if chosen == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise AnymaskError(f"dtype 'bfloat16' is not available on {device}; allowed are float32, float16")
    return chosen
