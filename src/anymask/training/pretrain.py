"""Pre-training on photos without masks: the loop around `masked_autoencoding.py`, resumable to the exact step.

A run's folder holds `config.json`, `last.pt`, `curves.csv`, `drawing.png` (look at it: it shows whether anything is
learned) and `encoder.safetensors`, a whole model's weights for `init_from`, of which the encoder is trained.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anymask.data.images import list_images, read_image
from anymask.errors import CheckpointError, DataError
from anymask.geometry.resize import resize_image
from anymask.model.checkpoints import load_checkpoint, save_checkpoint
from anymask.model.registry import Regularisation, build_model
from anymask.training.initialise import start_from_imagenet
from anymask.training.loop import append_curve, forget_after, launch_fabric, progress_bar, write_atomically
from anymask.training.masked_autoencoding import MaskedAutoencoder, draw_hidden, picture

DRAWN_CROPS = 6


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run."""

    model: str
    photos: str
    crop_size: int
    images_per_step: int  # over all processes
    total_steps: int
    learning_rate: float
    patch: int = 32  # Xie et al. 2021: larger than the stride, or neighbours give the answer away
    hidden_share: float = 0.6  # Xie et al. 2021; He et al. hide 0.75 of patches of 16
    init_from: str | None = None  # a checkpoint, or "imagenet" for tiny
    warmup_steps: int = 100
    weight_decay: float = 0.05  # He et al. 2021
    betas: tuple[float, float] = (0.9, 0.95)  # He et al. 2021
    min_area_share: float = 0.2  # of the photo that a crop shows; He et al. 2021
    drop_path: float = 0.0
    clip_norm: float = 1.0  # assumed
    precision: str = "32-true"
    workers: int = 1
    seed: int = 0
    save_every: int = 100
    draw_every: int = 200

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)


class CropDataset(Dataset[Tensor]):
    """Item number `step` is that step's crops for this process: (I, 3, S, S) uint8, a function of seed and step."""

    def __init__(self, config: PretrainConfig, rank: int = 0, world_size: int = 1) -> None:
        self.config, self.rank = config, rank
        self.images = config.images_per_step // world_size
        self.paths = list_images(config.photos, recursive=True)
        if not self.paths:
            raise DataError(f"{config.photos}: holds no image; allowed: a folder of photos")

    def __len__(self) -> int:
        return self.config.total_steps

    def __getitem__(self, step: int) -> Tensor:
        crops = [self._crop(step, self.rank * self.images + slot) for slot in range(self.images)]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)

    def _crop(self, step: int, slot: int) -> np.ndarray:
        rng = np.random.default_rng((self.config.seed, step, slot))
        photo = read_image(self.paths[int(rng.integers(len(self.paths)))])
        height, width = photo.shape[:2]
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        area = rng.uniform(self.config.min_area_share, 1) * height * width
        window_h = min(height, max(1, round((area / aspect) ** 0.5)))
        window_w = min(width, max(1, round((area * aspect) ** 0.5)))
        top, left = int(rng.integers(height - window_h + 1)), int(rng.integers(width - window_w + 1))
        window = np.ascontiguousarray(photo[top : top + window_h, left : left + window_w])
        crop = resize_image(window, (self.config.crop_size, self.config.crop_size))
        return np.ascontiguousarray(crop[:, ::-1]) if rng.random() < 0.5 else crop


def pretrain(
    config: PretrainConfig, run_folder: Path, *, device: str = "auto", max_steps: int | None = None
) -> dict[str, float]:
    """Start or continue the run in `run_folder`; returns the mean loss of its last steps.

    Stops after `max_steps` further steps, or at `config.total_steps`. Raises `CheckpointError` when the folder holds
    another run or sizes do not fit, `DataError` when there are no photos.
    """
    check_sizes(config)
    fabric = launch_fabric(device, config.precision, config.images_per_step)
    torch.manual_seed(config.seed)
    autoencoder = start_autoencoder(config).to(fabric.device)
    optimiser = torch.optim.AdamW(
        autoencoder.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    run_folder.mkdir(parents=True, exist_ok=True)
    first_step = restore(run_folder, config, autoencoder, optimiser)
    module, wrapped_optimiser = fabric.setup(autoencoder, optimiser)
    last_step = config.total_steps if max_steps is None else min(config.total_steps, first_step + max_steps)
    if fabric.is_global_zero:
        write_atomically(run_folder / "config.json", config.to_json())
        forget_after(run_folder / "curves.csv", first_step)
    dataset = CropDataset(config, fabric.global_rank, fabric.world_size)
    batches = iter(
        DataLoader(dataset, sampler=range(first_step, last_step), batch_size=None, num_workers=config.workers)
    )
    losses: list[float] = []
    with progress_bar(fabric.is_global_zero) as progress:
        task = progress.add_task(f"pretrain {config.model}", total=config.total_steps, completed=first_step, note="")
        for step in range(first_step, last_step):
            started = time.perf_counter()
            pixels = next(batches).to(fabric.device, non_blocking=True)
            for group in wrapped_optimiser.param_groups:
                group["lr"] = learning_rate(config, step)
            is_hidden = hidden_patches(config, step, fabric.global_rank, len(pixels)).to(fabric.device)
            loss, _ = module(pixels, is_hidden)
            fabric.backward(loss)
            fabric.clip_gradients(module, wrapped_optimiser, max_norm=config.clip_norm)
            wrapped_optimiser.step()
            wrapped_optimiser.zero_grad(set_to_none=True)
            losses = [*losses[-99:], float(loss.detach())]
            if fabric.is_global_zero:
                done = step + 1
                seconds = time.perf_counter() - started
                append_curve(run_folder / "curves.csv", done, {"loss": losses[-1], "seconds": seconds})
                speed = f"{config.images_per_step / seconds:.1f} images/s"
                progress.update(task, completed=done, note=f"loss {np.mean(losses):.4f} {speed}")
                if done % config.draw_every == 0 or done == last_step:
                    save_drawing(run_folder / "drawing.png", autoencoder, pixels[:DRAWN_CROPS], is_hidden[:DRAWN_CROPS])
                if done % config.save_every == 0 or done == last_step:
                    save(run_folder, done, config, autoencoder, optimiser)
    fabric.barrier()
    return {"loss": float(np.mean(losses))} if losses else {}


def check_sizes(config: PretrainConfig) -> None:
    """Raises `CheckpointError` unless crops are whole patches and the share hides some and shows some."""
    if config.crop_size % config.patch or config.crop_size % 32:
        raise CheckpointError(f"crop_size={config.crop_size}; allowed: a multiple of 32 and of patch={config.patch}")
    if not 0 < config.hidden_share < 1:
        raise CheckpointError(f"hidden_share={config.hidden_share}; allowed: more than 0 and less than 1")


def start_autoencoder(config: PretrainConfig) -> MaskedAutoencoder:
    """The model with fresh weights or those that `init_from` names, in training mode."""
    segmenter = build_model(config.model, Regularisation(drop_path=config.drop_path))
    if config.init_from == "imagenet":
        start_from_imagenet(segmenter)
    elif config.init_from is not None:
        load_checkpoint(segmenter, config.init_from)
    segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # The prompt encoder and decoder ride along in the weights file and are not part of this task.
    segmenter.prompt_encoder.requires_grad_(False)
    segmenter.mask_decoder.requires_grad_(False)
    return MaskedAutoencoder(segmenter).train()


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine to zero (He et al. 2021)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.total_steps - config.warmup_steps, 1)
    return config.learning_rate * 0.5 * (1 + float(np.cos(np.pi * progress)))


def hidden_patches(config: PretrainConfig, step: int, rank: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 4096 + rank)
    return draw_hidden(count, config.crop_size, config.patch, config.hidden_share, generator)


def restore(
    run_folder: Path, config: PretrainConfig, autoencoder: MaskedAutoencoder, optimiser: torch.optim.Optimizer
) -> int:
    """Load `last.pt` where there is one; returns the next step."""
    path = run_folder / "last.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["model_name"] != config.model:
        raise CheckpointError(f"{run_folder} holds a run of {state['model_name']}, not of {config.model}")
    autoencoder.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def save(
    run_folder: Path,
    step: int,
    config: PretrainConfig,
    autoencoder: MaskedAutoencoder,
    optimiser: torch.optim.Optimizer,
) -> None:
    """Everything that a killed run needs, and the weights as they are; each moved into place when whole."""
    state = {
        "step": step,
        "model_name": config.model,
        "model": autoencoder.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    partial = run_folder / "last.pt.partial"
    torch.save(state, partial)
    os.replace(partial, run_folder / "last.pt")
    metadata = {"pretrained": "masked autoencoding", "step": str(step)}
    save_checkpoint(autoencoder.segmenter, run_folder / "encoder.safetensors", metadata, dtype=torch.float32)


def save_drawing(path: Path, autoencoder: MaskedAutoencoder, pixels: Tensor, is_hidden: Tensor) -> None:
    autoencoder.eval()
    rows = picture(autoencoder, pixels, is_hidden)
    autoencoder.train()
    partial = path.with_name(path.name + ".partial")
    Image.fromarray(rows.numpy()).save(partial, format="PNG")
    os.replace(partial, path)
