from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_runs import small_config

from anymask.errors import CheckpointError
from anymask.model.checkpoints import load_checkpoint
from anymask.model.conv_encoder import ConvEncoder
from anymask.model.registry import build_model
from anymask.training.adapt import add_low_rank_updates, checkpoint_activations, freeze, merged_weights
from anymask.training.loop import start_model, train


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return build_model("tiny").eval()


def encode(model):
    return model.encode(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))


def test_low_rank_updates_change_nothing_at_first_and_train_little(tiny):
    before = encode(tiny).embedding
    everything = sum(p.numel() for p in tiny.image_encoder.parameters())
    add_low_rank_updates(tiny, rank=4)
    torch.testing.assert_close(encode(tiny).embedding, before)
    trained = {name: p.numel() for name, p in tiny.image_encoder.named_parameters() if p.requires_grad}
    assert 0 < sum(trained.values()) < 0.02 * everything
    assert all(".qkv." in name or ".proj." in name for name in trained)
    assert all(p.requires_grad for p in tiny.mask_decoder.parameters())


def test_merged_weights_answer_as_the_adapted_model_does(tiny):
    add_low_rank_updates(tiny, rank=2)
    with torch.no_grad():
        for name, parameter in tiny.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.05)
    adapted = encode(tiny).embedding
    plain = build_model("tiny").eval()
    before = encode(plain).embedding
    load_checkpoint(plain, merged_weights(tiny.state_dict()))
    torch.testing.assert_close(encode(plain).embedding, adapted)
    assert not torch.allclose(before, adapted, atol=1e-2)


def test_merging_leaves_a_plain_model_as_it_is(tiny):
    state = tiny.state_dict()
    assert list(merged_weights(state)) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in merged_weights(state).items())


def test_an_encoder_without_attention_takes_no_low_rank_updates():
    model = build_model("conv")
    assert isinstance(model.image_encoder, ConvEncoder)
    with pytest.raises(CheckpointError, match=r"lora_rank=4: .* no attention"):
        add_low_rank_updates(model, 4)


def test_frozen_parts_are_named_or_refused(tiny):
    freeze(tiny, ["image_encoder", "prompt_encoder.no_mask"])
    trained = {name.split(".")[0] for name, p in tiny.named_parameters() if p.requires_grad}
    assert trained == {"prompt_encoder", "mask_decoder"}
    assert not tiny.prompt_encoder.no_mask_embed.weight.requires_grad
    with pytest.raises(CheckpointError, match=r"'encoder', .*image_encoder.*mask_decoder"):
        freeze(tiny, ["encoder"])
    with pytest.raises(CheckpointError, match="nothing of tiny to train"):
        freeze(tiny, ["image_encoder", "prompt_encoder", "mask_decoder"])


def test_checkpointed_activations_give_the_same_gradients(tiny):
    def gradients():
        tiny.zero_grad()
        encode(tiny).embedding.square().sum().backward()
        return [p.grad.clone() for p in tiny.image_encoder.parameters() if p.grad is not None]

    plain, names = gradients(), list(tiny.state_dict())
    checkpoint_activations(tiny)
    for one, other in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(one, other)
    assert list(tiny.state_dict()) == names


@pytest.mark.slow
def test_a_run_with_low_rank_updates_leaves_plain_weights_and_resumes(scenes, tmp_path):
    config = small_config(
        scenes, total_steps=3, lora_rank=2, init_from="pretrained", warmup_steps=0, checkpoint_activations=True
    )
    train(config, tmp_path / "whole", device="cpu")
    train(config, tmp_path / "parts", device="cpu", max_steps=2)
    train(config, tmp_path / "parts", device="cpu")
    whole, parts = (load_file(tmp_path / run / "best.safetensors") for run in ("whole", "parts"))
    start = start_model(replace(config, lora_rank=0)).state_dict()
    assert set(whole) == set(start)
    changed = {name for name, value in whole.items() if not torch.equal(value, start[name])}
    in_encoder = {name for name in changed if name.startswith("image_encoder.")}
    assert in_encoder
    assert all(name.endswith((".qkv.weight", ".proj.weight")) for name in in_encoder)
    state, again = (torch.load(tmp_path / run / "last.pt", weights_only=True)["model"] for run in ("whole", "parts"))
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    assert set(parts) == set(start)


def test_missing_pretrained_weights_are_named(scenes):
    with pytest.raises(CheckpointError, match=r"init_from='pretrained': conv has no weights"):
        start_model(small_config(scenes, model="conv", init_from="pretrained"))


def test_parts_of_a_step_do_what_the_whole_does(scenes, tmp_path):
    config = small_config(scenes, total_steps=2, images_per_step=4)
    train(config, tmp_path / "whole", device="cpu")
    train(replace(config, accumulate=2), tmp_path / "parts", device="cpu")
    whole, parts = (torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("whole", "parts"))
    torch.manual_seed(config.seed)
    start = start_model(config).state_dict()
    moved = sum((whole["model"][name] - start[name]).abs().sum().item() for name in start)
    apart = sum((whole["model"][name] - parts["model"][name]).abs().sum().item() for name in start)
    assert moved > 0
    assert apart < 1e-3 * moved
