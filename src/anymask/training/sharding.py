"""Weights, gradients and optimiser state spread over all processes (FSDP2), for models that do not fit one device.

Everything that is saved is whole again: a run may go on with another number of processes, or without sharding.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from anymask.training.step import TrainingStep


def sharded_strategy(world_size: int) -> ModelParallelStrategy:
    """Fabric's strategy that shards a `TrainingStep` over `world_size` processes."""
    return ModelParallelStrategy(_shard, data_parallel_size=world_size, tensor_parallel_size=1)


def _shard(step: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Each block of the image encoder by itself, so that one at a time is whole; the rest, which is small, together."""
    assert isinstance(step, TrainingStep)
    encoder = step.segmenter.image_encoder
    assert isinstance(encoder, nn.Module)
    processes = mesh["data_parallel"]
    for name, child in encoder.named_children():
        if name in ("blocks", "stages", "global_blocks"):
            for block in child.children():
                fully_shard(block, mesh=processes)
    fully_shard(step, mesh=processes)
    return step


def whole(value: Any) -> Any:
    """The same dict, list or tensor with nothing sharded in it. All processes must ask together."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item) for item in value)
    return value


def shard_like(tensor: Tensor, example: Tensor) -> Tensor:
    """This process's part of a whole tensor, where `example` is sharded; else the tensor on `example`'s device."""
    tensor = tensor.to(example.device)
    if isinstance(example, DTensor):
        return distribute_tensor(tensor, example.device_mesh, example.placements)
    return tensor


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a whole optimiser state into one whose parameters may be sharded.

    Whether its steps are fused stays its own choice: a run may go on where that does not suit.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    spread = {
        index: {
            name: shard_like(value, parameters[index]) if value.shape == parameters[index].shape else value
            for name, value in moments.items()
        }
        for index, moments in state["state"].items()
    }
    groups = [
        {**saved, "fused": own["fused"]}
        for saved, own in zip(state["param_groups"], optimiser.param_groups, strict=True)
    ]
    optimiser.load_state_dict({**state, "state": spread, "param_groups": groups})
