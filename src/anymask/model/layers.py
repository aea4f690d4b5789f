"""Small parts that every network here is built from. Legend: B batch, N tokens, C channels, H W height and width."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.depthwise import DepthwiseConvolution, learns_slowly


def is_inference(module: nn.Module) -> bool:
    """Whether a module may take the forms that suit answering and not learning; without gradients it is quicker."""
    return not (module.training or torch.is_grad_enabled())


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of a (B, C, H, W) map, each position alone."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # Channels go last for the fused kernel; on a channels-last tensor both permutes are free.
        return self.of_cells(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def of_cells(self, cells: Tensor) -> Tensor:
        """The same for positions in any order, (..., C)."""
        return F.layer_norm(cells, self.weight.shape, self.weight, self.bias, self.eps)


def is_plain_inference(x: Tensor) -> bool:
    """Whether `x` is on its way through a network on a processor, without gradients and without being traced.

    Only then may layers work strip by strip and in place; a traced graph should show each layer once.
    """
    is_traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not is_traced


def add_product(onto: Tensor, left: Tensor, right: Tensor, *, times: int = 1, is_spent: bool = False) -> Tensor:
    """`times` `onto` (B or 1, L, P) and the product of left (B, L, K) and right (B, K, P).

    A product that adds passes over its result once, which is what counts ("measured": a sum of two maps of `tiny` takes
    as long as a product of that size). So does one that writes where it reads, where `onto` `is_spent`: it copies none.
    """
    if torch.jit.is_tracing():  # a graph has no such product: it would multiply `onto` by one before the sum
        return (onto if times == 1 else times * onto) + left @ right
    if is_spent and len(onto) == len(left) and is_plain_inference(onto):
        return onto.baddbmm_(left, right, beta=times)
    return torch.baddbmm(onto, left, right, beta=times)


@cache
def has_intel_processor() -> bool:
    """Whether this machine's processor says that it is Intel's; False where it does not tell."""
    facts = Path("/proc/cpuinfo")
    return "GenuineIntel" in (facts.read_text() if facts.exists() else platform.processor())


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`, by the quicker of two libraries.

    PyTorch gives float32 linear layers to MKL. As a 1x1 convolution over channels-last positions one goes to oneDNN
    instead: 97% instead of 80% of what an AMD processor can do ("measured", Zen 4). On Intel's MKL is the quicker one,
    by a tenth ("measured", Cascade Lake).
    """
    if type(layer) is not nn.Linear or x.dtype != torch.float32 or not x.numel() or not is_plain_inference(x):
        return layer(x)
    if has_intel_processor() or not torch.backends.mkldnn.is_available():
        return layer(x)
    positions = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(positions, layer.weight[:, :, None, None], layer.bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


Activation = Literal["none", "relu6", "gelu"]
ACTIVATIONS = {"none": lambda x: x, "relu6": F.relu6, "gelu": F.gelu}
# The same in oneDNN's words: name, numbers, algorithm.
ONEDNN_ACTIVATIONS = {"none": ("none", [], ""), "relu6": ("hardtanh", [0.0, 6.0], ""), "gelu": ("gelu", [], "none")}


def apply_convolution(
    layer: nn.Module, x: Tensor, activation: Activation = "none", added: Tensor | None = None
) -> Tensor:
    """`activation(layer(x))`, or `layer(x) + added`, in one go where oneDNN can be asked for it.

    Each map is written once, not read and written again: the stages of `tiny` take 34 instead of 58 ms
    with two threads, 53 instead of 91 with one, in which PyTorch by itself does not ask oneDNN ("measured",
    Cascade Lake). The numbers are the same to rounding.
    """
    if type(layer) is not nn.Conv2d:  # such as one with 8-bit weights
        out = ACTIVATIONS[activation](layer(x))
        return out if added is None else out + added
    return convolve(layer, x, layer.weight, layer.bias, activation, added)


def convolve(
    shape: nn.Conv2d,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation = "none",
    added: Tensor | None = None,
) -> Tensor:
    """`apply_convolution` with other numbers than the layer's own, which says stride, padding and groups."""
    assert not isinstance(shape.padding, str)
    geometry = shape.padding, shape.stride, shape.dilation, shape.groups
    if x.dtype == weight.dtype == torch.float32 and x.numel() and is_plain_inference(x) and has_fused_convolutions():
        fused = torch.ops.mkldnn._convolution_pointwise
        if added is not None:
            assert activation == "none"
            return fused.binary(x, added, weight, bias, *geometry, "add", 1.0, None, [], None)
        return fused(x, weight, bias, *geometry, *ONEDNN_ACTIVATIONS[activation])
    padding, stride, dilation, groups = geometry
    if learns_slowly(shape, x):
        out = DepthwiseConvolution.apply(x, weight, bias, padding, stride, dilation)
    else:
        out = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    out = ACTIVATIONS[activation](out)
    return out if added is None else out + added


@cache
def has_fused_convolutions() -> bool:
    """Whether this PyTorch can ask oneDNN for a convolution and what follows it; what compiled models do."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class MLP(nn.Module):
    """`depth` linear layers with ReLU between them (mask and IoU heads; paper A: three layers)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, depth: int) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (depth - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


@dataclass(frozen=True)
class StackedMLPs:
    """M networks of one shape side by side, as they were when they were stacked; a layer is M products at once.

    `layers`: weights (M, in, out) and biases (M, 1, out) of each.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    @staticmethod
    def of(networks: nn.ModuleList) -> StackedMLPs:
        alike: Any = zip(*(network.layers for network in networks), strict=True)
        return StackedMLPs(
            tuple(
                (torch.stack([part.weight.T for part in parts]), torch.stack([part.bias[None] for part in parts]))
                for parts in alike
            )
        )

    def __call__(self, x: Tensor, wanted: range) -> Tensor:
        """x (M, B, in) of all networks, of which some are wanted: (len(wanted), B, out)."""
        some = slice(wanted.start, wanted.stop, wanted.step)
        x = x[some]
        for index, (weight, bias) in enumerate(self.layers):
            x = torch.baddbmm(bias[some], F.relu(x) if index else x, weight[some])
        return x


class DropPath(nn.Module):
    """Stochastic depth: in training, leaves a residual branch out for whole samples (paper A: rate 0.4 to 0.6)."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return branch
        kept = branch.new_empty(branch.shape[0], *[1] * (branch.ndim - 1)).bernoulli_(1 - self.rate)
        return branch * kept / (1 - self.rate)
