"""Training batches as a pure function of (seed, step): nothing to save, and a resumed run sees the same."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anymask.data.sa1b import Sa1bFolder, Sample, read_split
from anymask.data.sa1b_tars import Sa1bTars
from anymask.errors import DataError
from anymask.model.cache import cache_folder
from anymask.training.composite import draw_blob, left_of, paint, paste
from anymask.training.config import DataSource, TrainConfig
from anymask.training.crops import DrawnCrop, draw_sample
from anymask.training.teacher import TeacherFolder

# Beyond it a mask counts less the more there are beside it: "up to 64 sampled masks" of an image is what the paper (A)
# learns from at a time, and so all of most images' masks.
MOST_MASKS = 64
MAX_TRIES = 50  # images drawn before a data set is said to hold no usable mask


@dataclass(frozen=True)
class TrainingBatch:
    """pixels (I, 3, S, S) uint8; sizes_hw (I, 2) int, how much of each crop is image and not padding;
    masks (B, S, S) bool, none empty; image_index (B,) int. answers (A, S, S) bool and answer_image_index (A,) int:
    further masks of the same images, which nobody asks for. With a teacher, what it sees in each cell, (I, C, g, g)
    float16, and where that is known, (I, g, g) bool.
    """

    pixels: Tensor
    sizes_hw: Tensor
    masks: Tensor
    image_index: Tensor
    answers: Tensor
    answer_image_index: Tensor
    teacher: Tensor | None = None
    teacher_knows: Tensor | None = None


def open_source(source: DataSource, splits_file: str | None, part: str) -> Sa1bFolder | Sa1bTars:
    """The images of one source; `part` ("train" or "val") picks the side of its split or of its `val_share`.

    Of a folder of tars every Nth image is held out, N = 1 / `val_share`.
    """
    if next(Path(source.folder).glob("*.tar"), None) is not None:
        hold_out = round(1 / source.val_share) if source.val_share else None
        return Sa1bTars(source.folder, cache_folder() / "tars", hold_out, part)
    if source.split is not None and splits_file is not None:
        names = read_split(Path(splits_file), source.split, part)
    elif source.val_share:
        names = Sa1bFolder(source.folder).names
        held_out = set(_share(names, source.val_share, "val"))
        names = [name for name in names if (name in held_out) == (part == "val")]
    elif source.train_share == 1 or part == "val":
        return Sa1bFolder(source.folder)
    else:
        names = Sa1bFolder(source.folder).names
    if part == "train":
        names = _share(names, source.train_share, "train")
    return Sa1bFolder(source.folder, names=names)


def _share(names: list[str], share: float, purpose: str) -> list[str]:
    """So many of the names, at least one, always the same: those whose checksums come first."""
    in_order = sorted(names, key=lambda name: zlib.crc32(f"{purpose} {name}".encode()))
    return sorted(in_order[: max(1, round(share * len(names)))])


class BatchDataset(Dataset[TrainingBatch]):
    """Item `step * accumulate + part` is that part of the step's batch for this process.

    A part counts like a process of its own: however the images of a step are shared out, they are the same.
    """

    def __init__(self, config: TrainConfig, rank: int, world_size: int) -> None:
        """Raises `DataError` when masks or images to choose from are none."""
        for name in ("masks_per_image", "images_to_choose_from"):
            if getattr(config, name) < 1:
                raise DataError(f"{name} is {getattr(config, name)}; it must be 1 or more")
        self.config = config
        self.donor_config = replace(config, masks_per_image=1, answers_per_image=0, images_to_choose_from=1)
        self.rank = rank
        self.images = config.images_per_step // (world_size * config.accumulate)
        self.folders = [open_source(source, config.splits_file, "train") for source in config.sources]
        weights = np.array([source.weight for source in config.sources], dtype=np.float64)
        self.probabilities = weights / weights.sum()
        self.teacher = None if config.teacher is None else TeacherFolder(config.teacher)

    def __len__(self) -> int:
        return self.config.total_steps * self.config.accumulate

    def __getitem__(self, index: int) -> TrainingBatch:
        step, part = divmod(index, self.config.accumulate)
        first_slot = (self.rank * self.config.accumulate + part) * self.images
        pixels, sizes_hw, masks, answers, lessons = [], [], [], [], []
        for slot in range(self.images):
            # The slot counts over all processes: N processes see together what one would see alone.
            rng = np.random.default_rng((self.config.seed, step, first_slot + slot))
            drawn = self._draw(rng, self.config)
            before = drawn.image_hwc.copy()
            self._composite(drawn, rng)
            if self.teacher is not None:
                lessons.append(self._lesson(self.teacher, drawn, before))
            pixels.append(torch.from_numpy(drawn.image_hwc).permute(2, 0, 1))
            sizes_hw.append(drawn.size_hw)
            masks.append(torch.from_numpy(drawn.masks_khw))
            answers.append(torch.from_numpy(drawn.answers_khw[drawn.answers_khw.any(axis=(1, 2))]))
        batch = torch.stack(pixels), torch.tensor(sizes_hw), *_numbered(masks), *_numbered(answers)
        return TrainingBatch(*batch, *(torch.stack(part) for part in zip(*lessons, strict=True)))

    @staticmethod
    def _lesson(teacher: TeacherFolder, drawn: DrawnCrop, before_hwc: np.ndarray) -> tuple[Tensor, Tensor]:
        """What the teacher sees; of what was put onto the crop it knows nothing."""
        features, is_known = teacher.lesson(drawn.sample.encoded(), drawn.crop)
        is_changed = torch.from_numpy((drawn.image_hwc != before_hwc).any(axis=2))
        return features, is_known & (F.adaptive_max_pool2d(is_changed[None].float(), is_known.shape)[0] == 0)

    def _composite(self, scene: DrawnCrop, rng: np.random.Generator) -> None:
        """Now and then, objects of other crops or of paint put onto this one, in place."""
        pasting = self.config.pasting
        if pasting.share == 0 or rng.random() >= pasting.share:
            return
        height, width = scene.size_hw
        image_hwc = scene.image_hwc[:height, :width]
        masks_khw, answers_khw = (masks[:, :height, :width] for masks in (scene.masks_khw, scene.answers_khw))
        for _ in range(int(rng.integers(1, pasting.max_objects + 1))):
            kind = rng.random()
            if kind < pasting.painted_share:
                composite = paint(image_hwc, masks_khw, rng)
            else:
                donor = self._draw(rng, self.donor_config)
                is_blob = kind < pasting.painted_share + pasting.blob_share
                cut_out = draw_blob(scene.size_hw, rng) if is_blob else donor.masks_khw[0, :height, :width]
                composite = paste(image_hwc, masks_khw, donor.image_hwc[:height, :width], cut_out, rng)
            if composite is not None:
                image_hwc[:], masks_khw[:], hidden_hw = composite
                answers_khw[:] = left_of(answers_khw, hidden_hw)

    def _draw(self, rng: np.random.Generator, config: TrainConfig) -> DrawnCrop:
        for _ in range(MAX_TRIES):
            folder = self.folders[rng.choice(len(self.folders), p=self.probabilities)]
            sample = _choose(folder, config.images_to_choose_from, rng)
            others = self.teacher.answers(sample) if self.teacher and config.answers_per_image else ()
            drawn = draw_sample(sample, config, rng, others)
            if drawn is not None:
                return drawn
        folders = ", ".join(source.folder for source in self.config.sources)
        raise DataError(
            f"{folders}: no usable mask in {MAX_TRIES} images; allowed: masks of at least "
            f"{self.config.min_area} pixels in the crop, at most {self.config.max_area_share:g} of the image"
        )


def _choose(folder: Sa1bFolder | Sa1bTars, count: int, rng: np.random.Generator) -> Sample:
    """One of `count` images drawn at random, in proportion to how many masks it has."""
    samples = [folder[int(index)] for index in rng.integers(len(folder), size=count)]
    if count == 1:
        return samples[0]
    masks = np.array([min(len(sample.annotations), MOST_MASKS) for sample in samples])
    return samples[int(rng.choice(count, p=masks / masks.sum() if masks.any() else None))]


def _numbered(masks_of_images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The masks of all images (N, S, S) and which image each is of (N,)."""
    counts = torch.tensor([len(masks) for masks in masks_of_images])
    return torch.cat(list(masks_of_images)), torch.arange(len(counts)).repeat_interleave(counts)


def training_batches(config: TrainConfig, first_step: int, rank: int, world_size: int) -> DataLoader[TrainingBatch]:
    """Batches of the steps from `first_step` on, prepared ahead by `config.workers` processes."""
    dataset = BatchDataset(config, rank, world_size)
    workers = min(config.workers, os.cpu_count() or 1)
    return DataLoader(
        dataset,
        sampler=range(first_step * config.accumulate, config.total_steps * config.accumulate),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=3 if workers else None,
        persistent_workers=False,
    )
