"""The gradients of wide depthwise convolutions are those of the plain ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anymask.model.depthwise import DepthwiseConvolution, learns_slowly
from anymask.model.layers import apply_convolution

# kernel, stride, padding, dilation, and a size that the stride does not divide
SHAPES = [
    (5, 1, 2, 1, (9, 7)),
    (5, 2, 2, 1, (9, 8)),
    (7, 1, 3, 1, (8, 11)),
    (5, 1, 4, 2, (12, 9)),
    (5, 3, 0, 2, (16, 19)),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "size_hw"), SHAPES)
def test_gradients_equal_those_of_the_plain_convolution(kernel, stride, padding, dilation, size_hw):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 6, *size_hw, dtype=torch.float64, generator=generator)
    weight = torch.randn(6, 1, kernel, kernel, dtype=torch.float64, generator=generator)
    bias = torch.randn(6, dtype=torch.float64, generator=generator)
    geometry = (padding, padding), (stride, stride), (dilation, dilation)

    def gradients(convolve):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        out = convolve(*leaves)
        (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        return out.detach(), *(leaf.grad for leaf in leaves)

    plain = gradients(lambda x, w, b: F.conv2d(x, w, b, stride, padding, dilation, 6))
    ours = gradients(lambda x, w, b: DepthwiseConvolution.apply(x, w, b, *geometry))
    for expected, got in zip(plain, ours, strict=True):
        torch.testing.assert_close(got, expected)


def test_what_is_frozen_gets_no_gradient():
    layer = nn.Conv2d(4, 4, 5, padding=2, groups=4)
    layer.weight.requires_grad_(False)
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    assert learns_slowly(layer, x)
    apply_convolution(layer, x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias is not None
    assert layer.bias.grad is not None
    assert x.grad is not None


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 5, groups=4), nn.Conv2d(4, 4, 5)])
def test_other_convolutions_are_left_to_the_library(layer):
    assert not learns_slowly(layer, torch.zeros(1, 4, 8, 8))


def test_answering_needs_no_gradient():
    layer = nn.Conv2d(4, 4, 5, groups=4)
    with torch.no_grad():
        assert not learns_slowly(layer, torch.zeros(1, 4, 8, 8))
