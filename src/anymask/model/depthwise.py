"""Depthwise convolutions whose weights learn quickly on a processor. Legend: B images, C channels, H W cells."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Up to here oneDNN has a form of its own for the weights' gradient ("measured": 0.5 ms for 480 channels of 24x24 cells,
# two images; by the one below 2.9 ms).
LARGEST_QUICK_KERNEL = 3


def learns_slowly(shape: nn.Conv2d, x: Tensor) -> bool:
    """Whether gradients are wanted of a depthwise convolution that oneDNN has no good form for."""
    return (
        1 < shape.groups == shape.in_channels == shape.out_channels
        and max(shape.kernel_size) > LARGEST_QUICK_KERNEL
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and not (torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"))
    )


class DepthwiseConvolution(torch.autograd.Function):
    """`F.conv2d` of C channels in C groups; its weights' gradient is such a convolution too, with what the output's
    gradient is as the kernel, so that stride and dilation change places.

    oneDNN takes its general form for this gradient, in which each channel becomes a group of 16: 10 to 14 ms for the
    5x5 kernels of `tiny` at two crops of 384 pixels, here 3 to 6 ms, a tenth of a training step ("measured",
    Cascade Lake, one thread).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: tuple[int, ...]
    ) -> Tensor:  # padding, stride, dilation
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        padding, stride, dilation = geometry
        return F.conv2d(x, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        padding, stride, dilation = ctx.geometry
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, stride, padding, dilation, False, (0, 0), len(weight), (True, False, False)
            )[0]
        if ctx.needs_input_grad[1]:
            height, width = weight.shape[-2:]
            of_each = (
                F.conv2d(image[None], kernels[:, None], None, dilation, padding, stride, len(weight))
                for image, kernels in zip(x, gradient, strict=True)
            )
            of_weight = torch.stack([each[0, :, None, :height, :width] for each in of_each]).sum(0)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None, None
