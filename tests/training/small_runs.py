"""A small data set of drawn scenes and the configuration of a run on it that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from anymask.data.sa1b import write_sa1b
from anymask.training.clicks import ClickSchedule
from anymask.training.config import DataSource, TrainConfig

NUM_IMAGES = 8
TRAIN_NAMES = [f"{index}.png" for index in range(6)]
VAL_NAMES = [f"{index}.png" for index in range(6, NUM_IMAGES)]


def draw_scene(index: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 whose red says `index`, and the masks (3, H, W) of three objects on it."""
    rng = np.random.default_rng(index)
    height, width = 96 + 8 * (index % 3), 120
    image = np.full((height, width, 3), (20 * index, 90, 90), dtype=np.uint8)
    masks = np.zeros((3, height, width), dtype=np.uint8)
    for mask, x in zip(masks, (25, 60, 95), strict=True):
        centre_xy = x, int(rng.integers(30, height - 30))
        axes = int(rng.integers(9, 15)), int(rng.integers(12, 25))
        cv2.ellipse(mask, centre_xy, axes, 0, 0, 360, 1, -1)
        image[mask == 1, 1:] = rng.integers(0, 256, 2)
    return image, masks.view(bool)


def write_scenes(folder: Path) -> Path:
    """The data set in SA-1B's layout, with masks that training must leave out: empty, tiny, and too large."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(NUM_IMAGES):
        image, masks = draw_scene(index)
        tiny = np.zeros_like(masks[:1])
        tiny[0, 50, 50:53] = True
        useless = np.concatenate([np.zeros_like(tiny), tiny, np.ones_like(tiny)])
        Image.fromarray(image).save(folder / f"{index}.png")
        write_sa1b(folder / f"{index}.json", f"{index}.png", image.shape[:2], np.concatenate([useless, masks]))
    splits = {"scenes": {"train": TRAIN_NAMES, "val": VAL_NAMES}}
    (folder.parent / "splits.json").write_text(json.dumps(splits))
    return folder


def small_config(folder: Path, **changes: Any) -> TrainConfig:
    """A run of `tiny` on the scenes: 64 pixel crops, two images of two masks, three rounds."""
    fields: dict[str, Any] = {
        "model": "tiny",
        "sources": (DataSource(str(folder), split="scenes"),),
        "splits_file": str(folder.parent / "splits.json"),
        "crop_size": 64,
        "images_per_step": 2,
        "masks_per_image": 2,
        "total_steps": 6,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "dropout": 0.0,
        "ema_decay": 0.9,
        "schedule": ClickSchedule(rounds=3, mask_only_rounds=1),
        "workers": 0,
        "save_every": 100,
        "validate_every": 100,
        "validation_objects": 2,
    }
    return TrainConfig(**(fields | changes))


def nested_scene(folder: Path) -> tuple[TrainConfig, np.ndarray]:
    """An image with a whole, a part of it and a mask in the corner; last, what another model drew: half of the whole.

    That one is in `answers/a.json`.
    """
    folder.mkdir()
    masks = np.zeros((4, 40, 40), dtype=bool)
    masks[0, 4:30, 4:30] = True
    masks[1, 14:20, 14:20] = True
    masks[2, 32:40, 32:40] = True
    masks[3, 17:30, 4:30] = True
    Image.fromarray(np.full((40, 40, 3), 90, dtype=np.uint8)).save(folder / "a.png")
    write_sa1b(folder / "a.json", "a.png", (40, 40), masks[:3])
    (folder / "answers").mkdir()
    write_sa1b(folder / "answers" / "a.json", "a.png", (40, 40), masks[3:])
    config = small_config(
        folder,
        crop_size=40,
        masks_per_image=1,
        min_area=10,
        sources=(DataSource(str(folder)),),
        splits_file=None,
        answers_per_image=8,
        has_all_answers=True,
    )
    return config, masks
