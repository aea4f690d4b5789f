"""AdamW with layer-wise rates, the learning-rate schedule, and averaged weights (paper A)."""

from __future__ import annotations

import re

import torch
from torch import nn

from anymask.model.segmenter import Segmenter
from anymask.training.config import TrainConfig
from anymask.training.sharding import shard_like, whole

USUAL_SIZE = 0.05  # of a trained linear layer's weights ("measured" on `tiny`'s transformer blocks)
SIZE_RANGE = (0.1, 20.0)  # "assumed": a rate never changes by more than these


def encoder_depth(name: str) -> int | None:
    """How deep a parameter sits in the image encoder, 0 first; None for what is new on top (neck, ...)."""
    match = re.search(r"^image_encoder\.(?:blocks|stages)\.(\d+)\.", name)
    if match:
        return int(match.group(1)) + 1
    if re.search(r"^image_encoder\.(?:patch_embed|pos_embed|stem)", name):
        return 0
    return None


def parameter_groups(model: Segmenter, config: TrainConfig) -> list[dict[str, object]]:
    """Groups with their own rate: layer_decay per level below the top of the encoder; no decay on vectors.

    With `has_relative_rates` a tensor of those levels is a group of its own: its rate is relative to its size when the
    run began, as a resumed run knows from the saved groups.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    top = max((depth for name, _ in named if (depth := encoder_depth(name)) is not None), default=0) + 1
    groups: dict[tuple[float, float, str], list[nn.Parameter]] = {}
    for name, parameter in named:
        depth = encoder_depth(name)
        scale = 1.0 if depth is None else config.encoder_lr_scale * config.layer_decay ** (top - depth)
        decay = config.weight_decay if parameter.ndim > 1 and "embed" not in name else 0.0
        own = ""
        if depth is not None and config.has_relative_rates:
            relative = relative_size(parameter)
            scale, decay, own = scale * relative, decay / relative, name  # what decays is not what moves further
        groups.setdefault((scale, decay, own), []).append(parameter)
    return [
        {"params": parameters, "lr": config.learning_rate * scale, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay, _), parameters in groups.items()
    ]


def relative_size(parameter: nn.Parameter) -> float:
    """The root mean square of a tensor's numbers beside that of a linear layer's, `USUAL_SIZE`.

    AdamW moves every number by about the rate, whatever its size. Convolutions with batch norm folded in are from 0.01
    to 20 in size: with one rate for all, after 8,000 steps of `tiny`'s training the small ones had moved as far as they
    were large, and the others by less than a tenth ("measured").
    """
    size = float(whole(parameter.detach()).float().square().mean().sqrt())
    return min(max(size / USUAL_SIZE, SIZE_RANGE[0]), SIZE_RANGE[1])


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, a tenth after each drop (paper A), a linear cool-down where the recipe asks for one."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))
    rate *= 0.1 ** sum(step >= drop for drop in config.lr_drops)
    if config.cooldown_steps:
        rate *= min(1.0, max(0.0, (config.total_steps - step) / config.cooldown_steps))
    return rate


def build_optimiser(model: Segmenter, config: TrainConfig, head: nn.Module | None = None) -> torch.optim.AdamW:
    """AdamW over what of the model is trained, and over a head that is thrown away after training."""
    groups = parameter_groups(model, config)
    if head is not None:
        groups.append(
            {"params": list(head.parameters()), "lr": config.learning_rate, "lr_scale": 1.0, "weight_decay": 0.0}
        )
    # Fused it takes half of the time on a processor ("measured": 33 instead of 65 ms of a step of `tiny`). On graphics
    # cards gradients that were scaled for float16 could not be clipped then.
    is_fused = model.device.type == "cpu"
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=is_fused or None)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]


class AveragedWeights:
    """An exponential average of a model's weights, young at first: decay min(d, (1 + t) / (10 + t))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.state_dict().items()}

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Go on from whole weights that an earlier run saved."""
        self.weights = {name: shard_like(weights[name], own) for name, own in self.weights.items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value.to(self.weights[name].dtype), weight)
            else:
                self.weights[name].copy_(value)
