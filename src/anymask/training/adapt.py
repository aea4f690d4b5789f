"""What of a model is trained, and how its activations fit: frozen parts, low-rank updates, checkpointing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from anymask.errors import CheckpointError
from anymask.model.segmenter import Segmenter

LOW_RANK_SCALE = 2.0  # assumed: the update counts twice, as is usual where rank and scale are chosen together


class LowRankUpdate(nn.Module):
    """weight + scale * up @ down, of which only the two thin matrices learn (Hu et al. 2021); zero at first."""

    def __init__(self, out_features: int, in_features: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, in_features) / in_features**0.5)
        self.up = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + LOW_RANK_SCALE * self.up @ self.down


def freeze(segmenter: Segmenter, prefixes: Sequence[str]) -> None:
    """Leave every parameter whose name starts with one of `prefixes` as it is.

    Raises `CheckpointError` for a prefix that no parameter has, or when nothing is left to train.
    """
    for prefix in prefixes:
        chosen = [p for name, p in segmenter.named_parameters() if name.startswith(prefix)]
        if not chosen:
            parts = sorted({name.split(".")[0] for name, _ in segmenter.named_parameters()})
            raise CheckpointError(f"frozen has {prefix!r}, which no parameter of {segmenter.name} starts with: {parts}")
        for parameter in chosen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in segmenter.parameters()):
        raise CheckpointError(f"frozen={list(prefixes)} leaves nothing of {segmenter.name} to train")


def add_low_rank_updates(segmenter: Segmenter, rank: int) -> None:
    """Freeze the image encoder but for low-rank updates of its attention's query, key, value and output weights.

    Raises `CheckpointError` for an encoder without attention.
    """
    encoder = segmenter.image_encoder
    assert isinstance(encoder, nn.Module)
    encoder.requires_grad_(False)
    attention = [module for module in encoder.modules() if hasattr(module, "qkv")]
    if not attention:
        raise CheckpointError(f"lora_rank={rank}: the encoder of {segmenter.name} has no attention; use frozen instead")
    for module in attention:
        for linear in (module.qkv, module.proj):
            assert isinstance(linear, nn.Linear)
            update = LowRankUpdate(linear.out_features, linear.in_features, rank)
            parametrize.register_parametrization(linear, "weight", update)


def merged_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a plain model from the state dict of one with low-rank updates; others come back as they are."""
    marker = ".parametrizations.weight."
    merged = {}
    for name, value in state.items():
        owner, found, part = name.partition(marker)
        if not found:
            merged[name] = value
        elif part == "original":
            up, down = (state[f"{owner}{marker}0.{matrix}"] for matrix in ("up", "down"))
            merged[f"{owner}.weight"] = value + LOW_RANK_SCALE * up @ down
    return merged


def checkpoint_activations(segmenter: Segmenter) -> None:
    """Let the encoder's blocks forget their activations and compute them again on the way back: less memory, 1/3 more
    arithmetic ("assumed": one more forward pass beside a forward and a backward of twice its cost).
    """
    encoder = segmenter.image_encoder
    assert isinstance(encoder, nn.Module)
    for name, child in encoder.named_children():
        if name in ("blocks", "stages", "global_blocks"):
            assert isinstance(child, nn.ModuleList | nn.Sequential)
            for block in child:
                # On the instance, so that the names in the state dict stay what they are.
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
