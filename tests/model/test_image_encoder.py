"""The paper's image encoder: every quick form gives what the straightforward one gives, and it can still be trained."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import assert_close, randomise
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anymask.model import layers
from anymask.model.grid_attention import (
    attend_in_blocks,
    attend_whole,
    attend_with_channels,
    position_bias,
    relative_positions,
)
from anymask.model.image_encoder import ViTBlock, ViTEncoder
from anymask.model.layers import apply_linear, is_plain_inference

TOLERANCE = 1e-5  # of the largest value, in float32


def random_planes(planes: int, height: int, width: int, channels: int) -> tuple[Tensor, ...]:
    """query, key, value and both factors of a bias that matters."""
    generator = torch.Generator().manual_seed(31)
    query, key, value = torch.randn(3, planes, height * width, channels, generator=generator).unbind(0)
    table_h = 0.5 * torch.randn(2 * height - 1, channels, generator=generator)
    table_w = 0.5 * torch.randn(2 * width - 1, channels, generator=generator)
    grid = query.unflatten(1, (height, width))
    factors = position_bias(grid, relative_positions(table_h, height), relative_positions(table_w, width))
    return query, key, value, *factors


def random_block(window_size: int) -> ViTBlock:
    block = ViTBlock(32, 4, window_size, 10, 0.0).eval()
    randomise(block, seed=32)
    return block


def random_encoder() -> ViTEncoder:
    encoder = ViTEncoder(
        width=32, depth=2, num_heads=2, global_blocks=(1,), input_size=96, patch_size=8, window_size=5, embed_dim=16
    ).eval()
    randomise(encoder, seed=33)
    return encoder


def test_bias_is_the_papers_sum_for_each_pair() -> None:
    """Against the formula written out for each query and key."""
    height, width = 3, 4
    query = torch.randn(1, height, width, 5, generator=torch.Generator().manual_seed(34))
    table_h, table_w = torch.randn(2 * height - 1, 5), torch.randn(2 * width - 1, 5)
    bias_h, bias_w = position_bias(query, relative_positions(table_h, height), relative_positions(table_w, width))
    for y in range(height):
        for x in range(width):
            for v in range(height):
                expected = float(query[0, y, x] @ table_h[y - v + height - 1])
                assert float(bias_h[0, y, x, v]) == pytest.approx(expected, abs=1e-5)
            for u in range(width):
                expected = float(query[0, y, x] @ table_w[x - u + width - 1])
                assert float(bias_w[0, y, x, u]) == pytest.approx(expected, abs=1e-5)


def test_whole_form_is_softmax_of_scores_and_bias() -> None:
    query, key, value, bias_h, bias_w = random_planes(2, 3, 4, 6)
    scores = query @ key.transpose(1, 2) / 6**0.5
    for q in range(12):
        for k in range(12):
            scores[:, q, k] += bias_h[:, q // 4, q % 4, k // 4] + bias_w[:, q // 4, q % 4, k % 4]
    assert_close(attend_whole(query, key, value, bias_h, bias_w), scores.softmax(-1) @ value, TOLERANCE)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 7), st.integers(1, 20_000))
def test_other_forms_equal_the_whole_one(planes: int, height: int, width: int, bias_bytes: int) -> None:
    """Blocks of any size: some planes together, one, or some rows of one."""
    given_planes = random_planes(planes, height, width, 8)
    expected = attend_whole(*given_planes)
    with torch.inference_mode():
        torch.testing.assert_close(attend_in_blocks(*given_planes, bias_bytes), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attend_with_channels(*given_planes), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_forms_agree_in_half_precision(dtype: torch.dtype) -> None:
    planes = random_planes(2, 5, 6, 16)
    expected = attend_whole(*planes)
    half = [tensor.to(dtype) for tensor in planes]
    for form in (attend_in_blocks, attend_with_channels):
        answer = form(*half)
        assert answer.dtype == dtype
        assert_close(answer.float(), expected, 0.03 if dtype == torch.bfloat16 else 0.004)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layer_by_convolution_is_the_same_layer(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "has_intel_processor", lambda: False)
    layer = nn.Linear(24, 40, bias=bias)
    x = torch.randn(2, 3, 5, 24, generator=torch.Generator().manual_seed(35))
    with torch.inference_mode():
        assert is_plain_inference(x)
        assert_close(apply_linear(layer, x), layer(x), TOLERANCE)
        strided = x.transpose(1, 2)
        assert_close(apply_linear(layer, strided), layer(strided), TOLERANCE)
        assert apply_linear(layer, x[:0]).shape == (0, 3, 5, 40)
    assert not is_plain_inference(x)


def test_another_kind_of_linear_layer_is_called_itself() -> None:
    """So that int8 layers or adapters can take the place of one."""

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer = Doubled(4, 4)
    x = torch.randn(3, 4)
    with torch.inference_mode():
        assert_close(apply_linear(layer, x), 2 * nn.functional.linear(x, layer.weight, layer.bias), TOLERANCE)


@pytest.mark.parametrize("window_size", [0, 4])
@pytest.mark.parametrize("size_hw", [(10, 10), (7, 9), (3, 17), (31, 5)])
def test_strips_equal_the_whole_block(window_size: int, size_hw: tuple[int, int]) -> None:
    block = random_block(window_size)
    x = torch.randn(2, *size_hw, 32, generator=torch.Generator().manual_seed(36))
    whole = block(x).detach()
    with torch.inference_mode():
        assert_close(block(x), whole, TOLERANCE)


def test_encoder_without_gradients_equals_itself_with_them() -> None:
    encoder = random_encoder()
    pixels = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(37))
    with torch.inference_mode():
        quick = encoder(pixels).embedding
    assert_close(quick, encoder(pixels).embedding.detach(), TOLERANCE)


def test_encoder_can_be_trained_and_checkpointed() -> None:
    """Every parameter gets a gradient, and the same one where the activations are computed a second time."""
    encoder = random_encoder().train()
    pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(38))
    gradients = []
    for again in (False, True):
        encoder.zero_grad()
        features = checkpoint(encoder, pixels, use_reentrant=False) if again else encoder(pixels)
        features.embedding.square().mean().backward()
        gradients.append({name: part.grad for name, part in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient)


def test_autocast_stays_near() -> None:
    encoder = random_encoder()
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(39))
    with torch.inference_mode():
        expected = encoder(pixels).embedding
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = encoder(pixels).embedding
    assert_close(half.float(), expected, 0.1)  # assumed: some ten roundings of 2^-9


def test_exported_graph_holds_each_layer_once() -> None:
    """Strips are for the cache; in a graph they would be the same layer many times over."""
    encoder = random_encoder()
    with torch.no_grad():
        program = torch.export.export(nn.Sequential(*encoder.blocks), (torch.randn(1, 12, 12, 32),), strict=False)
    attentions = [node for node in program.graph.nodes if "scaled_dot_product" in str(node.target)]
    assert len(attentions) == len(encoder.blocks)


def test_encoder_can_be_compiled_whole() -> None:
    """`encoder.compile()` is the switch for graphics cards; a break in the graph would cost what it gains."""
    encoder = random_encoder()
    pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(41))
    with torch.no_grad():
        expected = encoder._embed(pixels)
        compiled = torch.compile(encoder._embed, backend="eager", fullgraph=True)
        assert_close(compiled(pixels), expected, TOLERANCE)
