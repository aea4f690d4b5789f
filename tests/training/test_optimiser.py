from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from small_runs import small_config
from torch import nn

from anymask.model.registry import build_model
from anymask.training.optimiser import (
    USUAL_SIZE,
    AveragedWeights,
    build_optimiser,
    encoder_depth,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)
from anymask.training.sharding import load_optimiser


@pytest.fixture(scope="module")
def tiny():
    return build_model("tiny")


def group_of(model, config):
    """The optimiser group of each parameter by name."""
    groups = parameter_groups(model, config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)]: group for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(names)
    return found


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("image_encoder.patch_embed.proj.weight", 0),
        ("image_encoder.pos_embed", 0),
        ("image_encoder.stem.weight", 0),
        ("image_encoder.blocks.0.attn.qkv.weight", 1),
        ("image_encoder.blocks.11.mlp.lin1.bias", 12),
        ("image_encoder.stages.5.3.expand.weight", 6),
        ("image_encoder.neck.0.weight", None),
        ("image_encoder.global_blocks.0.qkv.weight", None),
        ("mask_decoder.transformer.layers.0.norm1.weight", None),
    ],
)
def test_how_deep_a_parameter_sits(name, depth):
    assert encoder_depth(name) == depth


def test_rates_fall_towards_the_pixels(tiny, tmp_path):
    config = small_config(tmp_path, learning_rate=0.1, layer_decay=0.5, encoder_lr_scale=0.8)
    groups = group_of(tiny, config)
    expected = {
        "mask_decoder.mask_tokens.weight": 1.0,
        "prompt_encoder.no_mask_embed.weight": 1.0,
        "image_encoder.lateral16.weight": 1.0,
        "image_encoder.stages.5.0.expand.weight": 0.8 * 0.5,
        "image_encoder.stages.4.0.expand.weight": 0.8 * 0.5**2,
        "image_encoder.stages.0.0.project.bias": 0.8 * 0.5**6,
        "image_encoder.stem.weight": 0.8 * 0.5**7,
    }
    for name, scale in expected.items():
        assert groups[name]["lr_scale"] == pytest.approx(scale)
        assert groups[name]["lr"] == pytest.approx(0.1 * scale)


def test_rates_may_be_relative_to_what_they_move(tiny, tmp_path):
    """A convolution that is four times as large moves four times as far, and decays as before."""
    config = small_config(tmp_path, encoder_lr_scale=0.5, layer_decay=0.8, weight_decay=0.1)
    plain = group_of(tiny, config)
    relative = group_of(tiny, replace(config, has_relative_rates=True))
    weights = dict(tiny.named_parameters())
    for name in ("image_encoder.stages.2.0.project.weight", "image_encoder.stages.3.1.expand.weight"):
        size = weights[name].square().mean().sqrt().item() / USUAL_SIZE
        assert relative[name]["lr_scale"] == pytest.approx(plain[name]["lr_scale"] * size)
        assert relative[name]["params"] == [weights[name]]
        assert relative[name]["lr"] * relative[name]["weight_decay"] == pytest.approx(plain[name]["lr"] * 0.1)
    for name in ("mask_decoder.iou_token.weight", "image_encoder.norm16.weight"):
        assert relative[name]["lr_scale"] == plain[name]["lr_scale"] == 1.0
    still = deepcopy(tiny)
    nn.init.zeros_(still.image_encoder.stem.bias)
    smallest = group_of(still, replace(config, has_relative_rates=True))["image_encoder.stem.bias"]
    assert smallest["lr_scale"] == pytest.approx(0.1 * plain["image_encoder.stem.bias"]["lr_scale"])


def test_the_papers_rates_for_vit_b(tmp_path):
    with torch.device("meta"):
        model = build_model("vit_b")
    groups = group_of(model, small_config(tmp_path, layer_decay=0.6))
    assert groups["image_encoder.blocks.11.attn.qkv.weight"]["lr_scale"] == pytest.approx(0.6)
    assert groups["image_encoder.blocks.0.attn.qkv.weight"]["lr_scale"] == pytest.approx(0.6**12)
    assert groups["image_encoder.pos_embed"]["lr_scale"] == pytest.approx(0.6**13)
    assert groups["image_encoder.neck.0.weight"]["lr_scale"] == 1


def test_vectors_and_embeddings_do_not_decay(tiny, tmp_path):
    groups = group_of(tiny, small_config(tmp_path, weight_decay=0.3))
    for name, parameter in tiny.named_parameters():
        if parameter.ndim == 1:
            assert groups[name]["weight_decay"] == 0, name
    assert groups["prompt_encoder.point_embeddings.0.weight"]["weight_decay"] == 0
    assert groups["image_encoder.stem.weight"]["weight_decay"] == 0.3
    assert groups["mask_decoder.iou_prediction_head.layers.0.weight"]["weight_decay"] == 0.3


def test_frozen_parameters_are_left_out(tmp_path):
    model = build_model("tiny")
    model.image_encoder.requires_grad_(False)
    parameters = [p for group in parameter_groups(model, small_config(tmp_path)) for p in group["params"]]
    expected = [p for name, p in model.named_parameters() if not name.startswith("image_encoder")]
    assert {id(p) for p in parameters} == {id(p) for p in expected}


def test_warm_up_drops_and_cool_down(tmp_path):
    config = small_config(
        tmp_path,
        learning_rate=1.0,
        warmup_steps=4,
        lr_drops=(10, 20),
        total_steps=40,
        cooldown_steps=10,
    )
    rates = [learning_rate(config, step) for step in range(40)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert rates[9:11] == pytest.approx([1, 0.1])
    assert rates[19:21] == pytest.approx([0.1, 0.01])
    assert rates[30] == pytest.approx(0.01)
    assert rates[31:] == pytest.approx([0.01 * left / 10 for left in range(9, 0, -1)])
    assert learning_rate(config, 40) == 0


def test_without_schedule_the_rate_is_constant(tmp_path):
    config = small_config(tmp_path, learning_rate=0.5, warmup_steps=0)
    assert {learning_rate(config, step) for step in range(100)} == {0.5}


def test_setting_the_rate_keeps_the_layers_shares(tiny, tmp_path):
    config = small_config(tmp_path, learning_rate=1.0, layer_decay=0.5, betas=(0.8, 0.99))
    optimiser = build_optimiser(tiny, config)
    assert isinstance(optimiser, torch.optim.AdamW)
    set_learning_rate(optimiser, 0.25)
    rates = {group["lr_scale"]: group["lr"] for group in optimiser.param_groups}
    assert len(rates) == 8
    for scale, rate in rates.items():
        assert rate == pytest.approx(0.25 * scale)
    assert {group["betas"] for group in optimiser.param_groups} == {(0.8, 0.99)}


def test_averaged_weights_follow_the_plain_ones():
    model = nn.Linear(1, 1)
    model.register_buffer("count", torch.tensor(3))
    with torch.no_grad():
        model.weight.fill_(0)
    averaged = AveragedWeights(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(1)
        model.count.fill_(4)
    expected = 0.0
    for step in range(12):
        averaged.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))  # young at first: a tenth, two elevenths, ...
        expected = decay * expected + (1 - decay)
        assert averaged.weights["weight"].item() == pytest.approx(expected)
    assert averaged.weights["count"].item() == 4
    assert model.weight.item() == 1
    assert not averaged.weights["weight"].requires_grad


def test_decay_zero_keeps_the_plain_weights():
    model = nn.Linear(3, 3)
    averaged = AveragedWeights(model, decay=0.0)
    with torch.no_grad():
        model.weight.normal_()
    averaged.update(model, 1000)
    assert torch.equal(averaged.weights["weight"], model.weight)
    assert averaged.weights["weight"].data_ptr() != model.weight.data_ptr()


@pytest.mark.parametrize(("saved", "own"), [(True, None), (None, True)])
def test_a_loaded_state_does_not_decide_whether_steps_are_fused(saved, own):
    start = torch.randn(3, 2, generator=torch.Generator().manual_seed(5))

    def stepped(optimiser, weight):
        weight.grad = torch.ones_like(weight)
        optimiser.step()
        return optimiser

    def built(is_fused):
        weight = nn.Parameter(start.clone())
        return torch.optim.AdamW([weight], lr=0.1, fused=is_fused), weight

    first, weight = built(saved)
    stepped(first, weight)
    second, other = built(own)
    with torch.no_grad():
        other.copy_(weight)
    load_optimiser(second, first.state_dict())
    assert [group["fused"] for group in second.param_groups] == [own]
    stepped(first, weight)
    stepped(second, other)
    torch.testing.assert_close(other, weight)
