"""The image encoder with 8-bit weights: near the exact one, kept as a checkpoint, and judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import randomise
from torch import nn

from anymask.errors import AnymaskError
from anymask.evaluation.point_scores import PointResults, SetScores
from anymask.evaluation.points import PointSettings
from anymask.export.int8 import Cost, measure_cost, round_encoder, save_int8
from anymask.model.checkpoints import fingerprint
from anymask.model.int8 import Int8Linear
from anymask.model.registry import build_model
from anymask.model.segmenter import Segmenter
from anymask.model.zoo import load_model


def test_a_rounded_layer_is_near_the_exact_one() -> None:
    generator = torch.Generator().manual_seed(2)
    layer = nn.Linear(96, 64)
    nn.init.normal_(layer.weight, std=0.2, generator=generator)
    x = torch.randn(3, 5, 96, generator=generator) + 1
    rounded = Int8Linear.from_linear(layer)
    with torch.no_grad():
        exact, near = layer(x), rounded(x)
    assert near.shape == exact.shape
    assert float((near - exact).norm() / exact.norm()) < 0.01
    restored = rounded.weight_int8.float() * rounded.scale[:, None]
    assert float((restored - layer.weight).detach().abs().max()) <= 0.51 * float(rounded.scale.max())


def test_weights_written_later_are_used() -> None:
    layer = Int8Linear.from_linear(nn.Linear(32, 16))
    x = torch.randn(4, 32)
    before = layer(x)
    with torch.no_grad():
        layer.scale.mul_(2)
        layer.bias.zero_()
    assert not torch.allclose(layer(x), before)


def test_an_output_channel_of_zeros_stays_zero() -> None:
    layer = nn.Linear(32, 4, bias=False)
    with torch.no_grad():
        layer.weight[1] = 0
    assert Int8Linear.from_linear(layer)(torch.randn(3, 32))[:, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["small_sam", "random_tiny"])
def test_round_encoder(name: str, request: pytest.FixtureRequest) -> None:
    model: Segmenter = request.getfixturevalue(name)
    before = fingerprint(model)
    rounded = round_encoder(model)
    assert fingerprint(model) == before
    assert fingerprint(rounded) != before
    kinds = [type(part) for part in rounded.image_encoder.modules()]
    assert Int8Linear in kinds
    assert nn.Linear not in kinds
    pixels = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        exact, near = model.encode(pixels).embedding, rounded.encode(pixels).embedding
    error = float((near - exact).norm() / exact.norm())
    assert 0 < error < 0.1


def test_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    model = build_model("tiny")
    randomise(model, seed=3)
    rounded = round_encoder(model.eval().requires_grad_(False))
    path = save_int8(rounded, tmp_path / "tiny.int8.safetensors")
    pixels = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(5))
    for loaded in (load_model(path, device="cpu"), load_model("tiny", path, device="cpu")):
        with torch.inference_mode():
            near, exact = loaded.encode(pixels).embedding, rounded.encode(pixels).embedding
        # The other weights are kept as float16.
        assert float((near - exact).norm() / exact.norm()) < 0.02
    with pytest.raises(AnymaskError, match="8-bit weights compute on device 'cpu' in float32 only"):
        load_model(path, device="cpu", dtype="bfloat16")
    with pytest.raises(AnymaskError, match=r"no folder .*nowhere"):
        save_int8(rounded, tmp_path / "nowhere" / "tiny.safetensors")


def test_an_encoder_without_linear_layers() -> None:
    model = build_model("conv").eval().requires_grad_(False)
    with pytest.raises(AnymaskError, match="the image encoder of conv has no linear layers"):
        round_encoder(model)


def results_of(mean: dict[str, float]) -> PointResults:
    return PointResults({}, PointSettings(), {"pets/test": SetScores(1, 2, mean)}, mean)


def test_the_cost_in_points_and_time() -> None:
    cost = Cost(results_of({"1": 0.6, "box": 0.8}), results_of({"1": 0.595, "box": 0.8025}), 90.0, 60.0)
    assert cost.lost_points == pytest.approx({"1": 0.5, "box": -0.25})
    assert cost.lost_points_by_set == {"pets/test": cost.lost_points}
    assert cost.speedup == 1.5
    assert cost.to_json()["speedup"] == 1.5


def test_measured_without_data_speed_alone_counts(small_sam: Segmenter) -> None:
    cost = measure_cost(small_sam, round_encoder(small_sam), [])
    assert cost.before is cost.after is cost.lost_points is cost.lost_points_by_set is None
    assert cost.encode_ms_before > 0
    assert cost.encode_ms_after > 0


def test_measured_on_objects(random_tiny: Segmenter, tmp_path: Path) -> None:
    """The same model twice loses nothing; another one's answers differ."""
    from PIL import Image

    from anymask.data.sa1b import write_sa1b

    folder = tmp_path / "data" / "test"
    folder.mkdir(parents=True)
    picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "one.png")
    masks = np.zeros((1, 64, 96), dtype=bool)
    masks[0, 10:40, 20:70] = True
    write_sa1b(folder / "one.json", "one.png", (64, 96), masks, [{}])
    cost = measure_cost(random_tiny, random_tiny, [folder])
    assert cost.lost_points == {"1": 0, "oracle": 0, "box": 0}
    other = build_model("tiny")
    randomise(other, seed=9)
    spoilt = measure_cost(random_tiny, other.eval().requires_grad_(False), [folder], max_images=1, max_objects=1)
    assert spoilt.before is not None
    assert spoilt.before.sets["data/test"].objects == 1
    assert spoilt.lost_points != cost.lost_points
