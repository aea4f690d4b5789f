"""MobileSAM's encoder: its quick forms against the plain ones, and its checkpoint's keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from anymask.model.checkpoints import detect_variant
from anymask.model.registry import build_model
from anymask.model.segmenter import Segmenter
from anymask.model.tiny_vit_encoder import Bottleneck, ConvNorm, TinyViTEncoder, WindowAttention
from anymask.model.zoo import load_model


def randomise(module: nn.Module) -> None:
    """Every parameter and running statistic random, spreads positive, so that no part is a no-op."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator)
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 16
            tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn * fan_in**-0.5)


@pytest.fixture(scope="module")
def mobile_sam() -> Segmenter:
    model = build_model("mobile_sam").eval().requires_grad_(False)
    randomise(model)
    return model


def test_without_gradients_the_same_numbers(mobile_sam: Segmenter) -> None:
    encoder = mobile_sam.image_encoder
    pixels = torch.randn(2, 3, 96, 208)
    plain = encoder(pixels.requires_grad_()).embedding.detach()
    with torch.inference_mode():
        quick = encoder(pixels).embedding
    assert plain.shape == (2, 256, 6, 13)
    torch.testing.assert_close(quick, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("height", [1, 31, 32, 33, 70])
def test_strips_of_a_bottleneck_meet(height: int) -> None:
    block = Bottleneck(8, drop_path=0.0).eval()
    randomise(block)
    x = torch.randn(1, 8, height, 12)
    with torch.no_grad():
        strips = block(x)
    torch.testing.assert_close(strips, block(x).detach(), rtol=1e-4, atol=1e-5)


def test_batch_norm_folds_into_its_convolution() -> None:
    layer = ConvNorm(4, 6, 3, stride=2, groups=2).eval()
    randomise(layer)
    x = torch.randn(2, 4, 9, 7)
    with torch.no_grad():
        folded = layer(x)
        torch.testing.assert_close(folded, layer.bn(layer.c(x)), rtol=1e-4, atol=1e-5)


def test_attention_sees_its_own_window_alone_and_distance_counts() -> None:
    """Against the sums written out, for a grid that padding makes whole: 3x4 cells in windows of 2x2."""
    attention = WindowAttention(6, num_heads=2, window=2).eval()
    randomise(attention)
    x = torch.randn(1, 3, 4, 6)
    padded = torch.cat([x, torch.zeros(1, 1, 4, 6)], dim=1)
    expected = torch.zeros(4, 4, 6)
    for top in (0, 2):
        for left in (0, 2):
            cells = [(top + y, left + x_) for y in (0, 1) for x_ in (0, 1)]
            normed = attention.norm(torch.stack([padded[0, y, x_] for y, x_ in cells]))
            heads = attention.qkv(normed).reshape(4, 2, 9)
            seen = []
            for head in range(2):
                query, key, value = heads[:, head].split(3, dim=-1)
                scores = query @ key.T / 3**0.5
                for i, (y, x_) in enumerate(cells):
                    for j, (v, u) in enumerate(cells):
                        scores[i, j] += attention.attention_biases[head, abs(y - v) * 2 + abs(x_ - u)]
                seen.append(scores.softmax(dim=-1) @ value)
            for (y, x_), vector in zip(cells, attention.proj(torch.cat(seen, dim=-1)), strict=True):
                expected[y, x_] = vector
    torch.testing.assert_close(attention(x)[0], expected[:3], rtol=1e-4, atol=1e-5)


def test_its_published_file_brings_a_classifier_that_is_left_out(mobile_sam: Segmenter, tmp_path: Path) -> None:
    state = dict(mobile_sam.state_dict())
    state["image_encoder.head.weight"] = torch.zeros(1000, 320)
    state["image_encoder.norm_head.bias"] = torch.zeros(320)
    assert detect_variant(state) == "mobile_sam"
    torch.save(state, tmp_path / "mobile_sam.pt")
    loaded = load_model(tmp_path / "mobile_sam.pt", device="cpu")
    assert loaded.name == "mobile_sam"
    assert isinstance(loaded.image_encoder, TinyViTEncoder)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded.encode(pixels).embedding, mobile_sam.encode(pixels).embedding, rtol=1e-4, atol=1e-4
        )
