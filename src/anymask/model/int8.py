"""Linear layers with 8-bit weights, for the image encoder on a processor. Legend: C channels in, D channels out.

Weights are rounded once, each output channel on its own scale; inputs at every call, on the range that they have just
then, so that nothing is calibrated. The products are integers, the answer is float32. "Measured" on two cores with
AVX-512 VNNI: 37 instead of 120 ms for 4096 x 768 times 768 x 3072.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from anymask.errors import AnymaskError

LARGEST = 127
# The word in a file's metadata that says which part has 8-bit weights.
METADATA_KEY = "int8"
PART = "image_encoder"


class Int8Linear(nn.Module):
    """`nn.Linear` with weights (D, C) int8, a scale for each output channel (D,) and a float bias (D,)."""

    weight_int8: Tensor
    scale: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_buffer("weight_int8", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False)
        self._packed: tuple[object, Any] | None = None

    @staticmethod
    @torch.no_grad()
    def from_linear(layer: nn.Linear) -> Int8Linear:
        """A linear layer's weights rounded; the largest of each output channel becomes 127."""
        rounded = Int8Linear(layer.in_features, layer.out_features)
        weight = layer.weight.detach().float()
        scale = (weight.abs().amax(dim=1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        rounded.scale.copy_(scale)
        rounded.weight_int8.copy_(torch.round(weight / scale[:, None]))
        if layer.bias is not None:
            rounded.bias.copy_(layer.bias)
        return rounded

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) float32 on the CPU -> (..., D) float32."""
        return torch.ops.quantized.linear_dynamic(x, self._pack(), not has_exact_sums())

    def _pack(self) -> Any:
        """The weights in the order that the processor's instructions want; made anew when they were written to."""
        parts = (self.weight_int8, self.scale, self.bias)
        version = [0 if part.is_inference() else part._version for part in parts], [part.data_ptr() for part in parts]
        if self._packed is None or self._packed[0] != version:
            self._packed = (version, _prepack(self.weight_int8, self.scale, self.bias))
        return self._packed[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # packed weights belong to this process


def _prepack(weight_int8: Tensor, scale: Tensor, bias: Tensor) -> Any:
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings():
        # Quantised tensors are deprecated; here one lives only until it is packed.
        warnings.simplefilter("ignore")
        weight = torch._make_per_channel_quantized_tensor(weight_int8, scale.double(), zeros, 0)
    try:
        if "onednn" in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = "onednn"  # "measured": 37 and 26 ms where the default takes 44 and 28
        return torch.ops.quantized.linear_prepack(weight, bias.float())
    finally:
        torch.backends.quantized.engine = engine


@lru_cache(maxsize=1)
def has_exact_sums() -> bool:
    """Whether the processor sums products of 8 bits in 32; older ones use 16, and inputs must then keep to 7 bits."""
    is_there = getattr(torch.cpu, "_is_vnni_supported", None)
    return bool(is_there is not None and is_there())


def replace_linear_layers(part: nn.Module, rounded: bool = True) -> int:
    """Put an `Int8Linear` in the place of every linear layer in `part`; returns how many there were.

    With `rounded` they hold the layers' weights, without they wait for a checkpoint.
    """
    count = 0
    for parent in list(part.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                new = Int8Linear.from_linear(child) if rounded else Int8Linear(child.in_features, child.out_features)
                setattr(parent, name, new.train(child.training))
                count += 1
    return count


def require_processor(device: torch.device, dtype: torch.dtype) -> None:
    """Raise `AnymaskError` unless 8-bit layers can compute there."""
    if device.type != "cpu" or dtype != torch.float32:
        raise AnymaskError(
            f"8-bit weights compute on device 'cpu' in float32 only, not on {str(device)!r} in "
            f"{str(dtype).removeprefix('torch.')!r}; pass device='cpu'"
        )
