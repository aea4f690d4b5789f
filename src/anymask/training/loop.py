"""The training loop: Fabric underneath (one process, or many under torchrun), resumable to the exact step.

A run lives in one folder: `config.json`, `last.pt` (everything to go on), `curves.csv`, `validation.csv`, and
`best.safetensors` with `best.json` (the averaged weights that scored highest on the held-out part).
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file

from anymask.errors import CheckpointError
from anymask.model.checkpoints import load_checkpoint
from anymask.model.device import choose_device
from anymask.model.registry import Regularisation, build_model
from anymask.model.segmenter import Segmenter
from anymask.model.zoo import weights_path
from anymask.training.adapt import add_low_rank_updates, checkpoint_activations, freeze, merged_weights
from anymask.training.clicks import Draws
from anymask.training.config import TrainConfig
from anymask.training.dataset import TrainingBatch, training_batches
from anymask.training.initialise import start_from_imagenet
from anymask.training.optimiser import AveragedWeights, build_optimiser, learning_rate, set_learning_rate
from anymask.training.sharding import load_optimiser, sharded_strategy, whole
from anymask.training.step import TrainingStep
from anymask.training.validate import validate

TRAINING_CURVE = "curves.csv"
VALIDATION_CURVE = "validation.csv"
# Changing one of these in a resumed run changes nothing that the saved state depends on.
FREE_TO_CHANGE = {
    "total_steps", "save_every", "validate_every", "validation_objects", "workers", "compile", "precision",
    "learning_rate", "lr_drops", "cooldown_steps", "sources", "splits_file", "losses", "augmentation",
    "validation_sources", "schedule", "annotator", "pasting", "crop_size", "images_per_step", "masks_per_image",
    "images_to_choose_from", "ema_decay", "has_all_answers", "answers_per_image", "single_output_weight", "clip_norm",
    "accumulate", "checkpoint_activations", "is_sharded",
}  # fmt: skip


def train(
    config: TrainConfig, run_folder: Path, *, device: str = "auto", max_steps: int | None = None
) -> dict[str, float]:
    """Start or continue the run in `run_folder`; returns the last validation's scores.

    Stops after `max_steps` further steps, or at `config.total_steps`. Under `torchrun --nproc-per-node N`
    each process takes its share of the images, and together they do what one would do alone. Raises
    `CheckpointError` when the folder holds another run, `DataError` when a source is broken.
    """
    fabric = launch_fabric(
        device,
        config.precision,
        config.images_per_step,
        accumulate=config.accumulate,
        is_sharded=config.is_sharded,
    )
    torch.manual_seed(config.seed)
    segmenter = start_model(config).to(fabric.device)
    run_folder.mkdir(parents=True, exist_ok=True)
    state = read_state(run_folder, config)
    first_step, best = (state["step"], state["best"]) if state else (0, 0.0)
    if state:
        segmenter.load_state_dict(state["model"])
    training_step = TrainingStep(segmenter, config)
    if state and training_step.teacher_head is not None:
        training_step.teacher_head.load_state_dict(state["teacher_head"])
    module = fabric.setup_module(training_step)
    # After the module, because its parameters are others once they are sharded.
    optimiser = build_optimiser(segmenter, config, training_step.teacher_head)
    averaged = AveragedWeights(segmenter, config.ema_decay)
    if state:
        load_optimiser(optimiser, state["optimiser"])
        averaged.load(state["averaged"])
    wrapped_optimiser: Any = fabric.setup_optimizers(optimiser)
    last_step = config.total_steps if max_steps is None else min(config.total_steps, first_step + max_steps)
    if fabric.is_global_zero:
        write_atomically(run_folder / "config.json", config.to_json())
        for curve in (TRAINING_CURVE, VALIDATION_CURVE):
            forget_after(run_folder / curve, first_step)
    batches = iter(training_batches(config, first_step, fabric.global_rank, fabric.world_size))
    scores: dict[str, float] = {}
    with progress_bar(fabric.is_global_zero) as progress:
        task = progress.add_task(config.model, total=config.total_steps, completed=first_step, note="")
        for step in range(first_step, last_step):
            started = time.perf_counter()
            set_learning_rate(wrapped_optimiser, learning_rate(config, step))
            row = accumulate_gradients(fabric, module, config, step, batches)
            norm = fabric.clip_gradients(module, wrapped_optimiser, max_norm=config.clip_norm)
            wrapped_optimiser.step()
            wrapped_optimiser.zero_grad(set_to_none=True)
            averaged.update(segmenter, step)

            done, norm = step + 1, whole(norm)
            if fabric.is_global_zero:
                row |= {"norm": float(norm), "seconds": time.perf_counter() - started, "waited": row.pop("waited")}
                append_curve(run_folder / TRAINING_CURVE, done, row)
                progress.update(task, completed=done, note=progress_note(config, row))
            if done % config.validate_every == 0 or done == last_step:
                weights = whole(averaged.weights)
                if fabric.is_global_zero:
                    scores = validate_weights(weights, config, fabric.device)
                    append_curve(run_folder / VALIDATION_CURVE, done, scores)
                    best = keep_best(run_folder, weights, scores, best, done)
            if done % config.save_every == 0 or done == last_step:
                parts = {"model": segmenter.state_dict(), "optimiser": optimiser.state_dict()}
                if training_step.teacher_head is not None:
                    parts["teacher_head"] = training_step.teacher_head.state_dict()
                state = whole({**parts, "averaged": averaged.weights})
                if fabric.is_global_zero:
                    save(run_folder, {"step": done, "config": config.to_json(), "best": best, **state})
    fabric.barrier()
    return scores


def accumulate_gradients(
    fabric: Fabric, module: Any, config: TrainConfig, step: int, batches: Iterator[TrainingBatch]
) -> dict[str, float]:
    """Gradients of one step's images, part by part; returns the means of the curves and seconds `waited` for data."""
    seed = (config.seed * 1_000_003 + step) * 4096
    sums: dict[str, float] = {"waited": 0.0}
    for part in range(config.accumulate):
        started = time.perf_counter()
        batch = to_device(next(batches), fabric.device)
        sums["waited"] += time.perf_counter() - started
        share = fabric.global_rank * config.accumulate + part
        torch.manual_seed(seed + 1 + share)  # dropout and drop path: others in each share of the step
        with fabric.no_backward_sync(module, enabled=part < config.accumulate - 1):
            loss, curves = module(batch, Draws(seed, share, fabric.world_size * config.accumulate))
            fabric.backward(loss / config.accumulate)
        for name, value in curves.items():
            sums[name] = sums.get(name, 0.0) + float(value) / config.accumulate
    return sums


def launch_fabric(
    device: str, precision: str, images_per_step: int, *, accumulate: int = 1, is_sharded: bool = False
) -> Fabric:
    """Fabric over all processes that torchrun started, each on a device of its own, or over this one.

    Raises `AnymaskError` for a device that is not here and `CheckpointError` when the images can't be shared.
    """
    chosen = choose_device(device)
    alone: list[int] | int = 1 if chosen.type == "cpu" else [chosen.index or 0]
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if images_per_step % (world_size * accumulate):
        raise CheckpointError(
            f"images_per_step={images_per_step} cannot be shared by {world_size} processes in {accumulate} parts each; "
            f"it must be a multiple of {world_size * accumulate}"
        )
    strategy: Any = "auto" if world_size == 1 else "ddp_find_unused_parameters_true"
    if is_sharded and world_size > 1:
        strategy = sharded_strategy(world_size)
    fabric = Fabric(
        accelerator=chosen.type,
        devices=local_size if world_size > 1 else alone,
        num_nodes=world_size // local_size,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def start_model(config: TrainConfig) -> Segmenter:
    """The model with fresh weights or those that `config.init_from` names, and what of it is to be trained."""
    segmenter = build_model(config.model, Regularisation(config.drop_path, config.dropout))
    if config.init_from == "imagenet":
        start_from_imagenet(segmenter)
    elif config.init_from is not None:
        load_checkpoint(
            segmenter, pretrained_path(config.model) if config.init_from == "pretrained" else config.init_from
        )
    freeze(segmenter, config.frozen)
    if config.lora_rank:
        add_low_rank_updates(segmenter, config.lora_rank)
    if config.checkpoint_activations:
        checkpoint_activations(segmenter)
    # Channels last halves the time of the convolutions on a CPU (measured: 61 to 30 ms) and suits GPUs too; FSDP2
    # takes contiguous weights alone.
    if not config.is_sharded:
        segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return segmenter.train()


def pretrained_path(model: str) -> Path:
    """The weights that `anymask.load_model(model)` takes. Raises `CheckpointError` when they are not here."""
    path = weights_path(model)
    if path is None or not path.is_file():
        raise CheckpointError(f"init_from='pretrained': {model} has no weights here; allowed: a checkpoint's path")
    return path


def read_state(run_folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """What `last.pt` holds, or None where there is none. Raises `CheckpointError` when it is another run's."""
    path = run_folder / "last.pt"
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    saved, wanted = json.loads(state["config"]), json.loads(config.to_json())
    # A field that the saved run did not know yet had its default's effect.
    known = {**json.loads(TrainConfig("", (), 0, 0, 0, 0, 0.0).to_json()), **saved}
    changed = [key for key in wanted if key not in FREE_TO_CHANGE and known[key] != wanted[key]]
    if changed:
        differences = ", ".join(f"{key}={known[key]!r} there, {wanted[key]!r} here" for key in changed)
        raise CheckpointError(f"{run_folder} holds another run: {differences}; use another folder")
    return state


def save(run_folder: Path, state: dict[str, Any]) -> None:
    """Everything that a killed run needs to go on, written beside and moved into place."""
    partial = run_folder / "last.pt.partial"
    torch.save(state, partial)
    os.replace(partial, run_folder / "last.pt")


def validate_weights(weights: dict[str, torch.Tensor], config: TrainConfig, device: torch.device) -> dict[str, float]:
    """Validation scores of whole weights, in a model of their own: the one in training stays as it is."""
    segmenter = build_model(config.model).to(device)
    load_checkpoint(segmenter, merged_weights(weights))
    segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return validate(segmenter, config)


def keep_best(
    run_folder: Path, weights: dict[str, torch.Tensor], scores: dict[str, float], best: float, step: int
) -> float:
    """Write the averaged weights when they score higher than any before."""
    if not scores["score"] > best:
        return best
    partial = run_folder / "best.safetensors.partial"
    save_file({name: value.contiguous() for name, value in merged_weights(weights).items()}, partial)
    os.replace(partial, run_folder / "best.safetensors")
    write_atomically(run_folder / "best.json", json.dumps({"step": step, **scores}, indent=1))
    return scores["score"]


def to_device(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    moved = {name: part.to(device, non_blocking=True) for name, part in parts.items() if part is not None}
    return TrainingBatch(**moved)


def append_curve(path: Path, step: int, values: dict[str, float]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["step", *values])
        writer.writerow([step, *(f"{value:.6g}" for value in values.values())])


def forget_after(path: Path, step: int) -> None:
    """Drop a curve's rows of later steps than `step`: a killed run lost those and goes through them again."""
    if path.exists():
        rows = ((row, row.split(",")[0]) for row in path.read_text().splitlines(keepends=True))
        kept = [row for row, number in rows if not number.isdecimal() or int(number) <= step]
        write_atomically(path, "".join(kept))


def write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def progress_note(config: TrainConfig, row: dict[str, float]) -> str:
    """Losses, images a second, and the share of the time that went by waiting for data."""
    speed, waiting = config.images_per_step / row["seconds"], row["waited"] / row["seconds"]
    return f"loss {row['loss']:.3f} oracle {row['iou_oracle']:.3f} {speed:.1f} images/s, waiting {waiting:.0%}"


def progress_bar(is_visible: bool) -> Progress:
    columns: list[Any] = [
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]  # fmt: skip
    return Progress(*columns, disable=not is_visible)
