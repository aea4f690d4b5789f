"""Training batches as a pure function of (seed, step): nothing to save, and a resumed run sees the same."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anymask.data.sa1b import Sa1bFolder, Sample, read_split
from anymask.data.sa1b_tars import Sa1bTars
from anymask.errors import DataError
from anymask.geometry.rle import decode_rles
from anymask.model.cache import cache_folder
from anymask.training.augment import Crop, draw_crop, jitter_colour
from anymask.training.composite import draw_blob, paint, paste
from anymask.training.config import DataSource, TrainConfig
from anymask.training.teacher import TeacherFolder

MAX_TRIES = 50  # images drawn before a data set is said to hold no usable mask


@dataclass(frozen=True)
class TrainingBatch:
    """pixels (I, 3, S, S) uint8; sizes_hw (I, 2) int, how much of each crop is image and not padding;
    masks (B, S, S) bool, none empty; image_index (B,) int. With a teacher, what it sees in each cell, (I, C, g, g)
    float16, and where that is known, (I, g, g) bool.
    """

    pixels: Tensor
    sizes_hw: Tensor
    masks: Tensor
    image_index: Tensor
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
        self.config = config
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
        pixels, sizes_hw, masks, lessons = [], [], [], []
        for slot in range(self.images):
            # The slot counts over all processes: N processes see together what one would see alone.
            rng = np.random.default_rng((self.config.seed, step, first_slot + slot))
            scene = self._draw(rng, self.config.masks_per_image)
            before = scene.image_hwc.copy()
            drawn = self._composite(scene, rng)
            if self.teacher is not None:
                lessons.append(self._lesson(self.teacher, drawn, before))
            pixels.append(torch.from_numpy(drawn.image_hwc).permute(2, 0, 1))
            sizes_hw.append(drawn.size_hw)
            masks.append(torch.from_numpy(drawn.masks_khw))
        image_index = torch.arange(self.images).repeat_interleave(self.config.masks_per_image)
        batch = torch.stack(pixels), torch.tensor(sizes_hw), torch.cat(masks), image_index
        return TrainingBatch(*batch, *(torch.stack(part) for part in zip(*lessons, strict=True)))

    @staticmethod
    def _lesson(teacher: TeacherFolder, drawn: DrawnCrop, before_hwc: np.ndarray) -> tuple[Tensor, Tensor]:
        """What the teacher sees; of what was put onto the crop it knows nothing."""
        features, is_known = teacher.lesson(drawn.sample.encoded(), drawn.crop)
        is_changed = torch.from_numpy((drawn.image_hwc != before_hwc).any(axis=2))
        return features, is_known & (F.adaptive_max_pool2d(is_changed[None].float(), is_known.shape)[0] == 0)

    def _composite(self, scene: DrawnCrop, rng: np.random.Generator) -> DrawnCrop:
        """Now and then, objects of other crops or of paint put onto this one."""
        pasting = self.config.pasting
        if pasting.share == 0 or rng.random() >= pasting.share:
            return scene
        height, width = scene.size_hw
        image_hwc, masks_khw = scene.image_hwc[:height, :width], scene.masks_khw[:, :height, :width]
        for _ in range(int(rng.integers(1, pasting.max_objects + 1))):
            kind = rng.random()
            if kind < pasting.painted_share:
                composite = paint(image_hwc, masks_khw, rng)
            else:
                donor = self._draw(rng, masks_per_image=1)
                is_blob = kind < pasting.painted_share + pasting.blob_share
                cut_out = draw_blob(scene.size_hw, rng) if is_blob else donor.masks_khw[0, :height, :width]
                composite = paste(image_hwc, masks_khw, donor.image_hwc[:height, :width], cut_out, rng)
            if composite is not None:
                image_hwc[:], masks_khw[:] = composite
        return scene

    def _draw(self, rng: np.random.Generator, masks_per_image: int) -> DrawnCrop:
        for _ in range(MAX_TRIES):
            folder = self.folders[rng.choice(len(self.folders), p=self.probabilities)]
            drawn = draw_sample(folder[int(rng.integers(len(folder)))], self.config, masks_per_image, rng)
            if drawn is not None:
                return drawn
        folders = ", ".join(source.folder for source in self.config.sources)
        raise DataError(
            f"{folders}: no usable mask in {MAX_TRIES} images; allowed: masks of at least "
            f"{self.config.min_area} pixels in the crop, at most {self.config.max_area_share:g} of the image"
        )


class DrawnCrop(NamedTuple):
    """An augmented crop (S, S, 3) uint8, how much of it is image, masks of it (K, S, S) bool, and what it is of."""

    image_hwc: np.ndarray
    size_hw: tuple[int, int]
    masks_khw: np.ndarray
    sample: Sample
    crop: Crop


def draw_sample(
    sample: Sample, config: TrainConfig, masks_per_image: int, rng: np.random.Generator
) -> DrawnCrop | None:
    """A crop of one image and its masks, some of them twice where it has few; None where it has none."""
    crop = draw_crop(sample.size_hw, config.crop_size, config.augmentation, rng)
    image_area = sample.size_hw[0] * sample.size_hw[1]
    candidates = [
        annotation
        for annotation in sample.annotations
        if annotation.area <= config.max_area_share * image_area
        and _overlaps(annotation.bbox_xywh, (crop.x0, crop.y0, crop.x1, crop.y1))
    ]
    masks: list[np.ndarray] = []
    order: Iterable[int] = rng.permutation(len(candidates))
    if config.has_all_answers:
        order = in_pairs(order, [annotation.bbox_xywh for annotation in candidates])
    for index in order:
        try:
            whole_mask = decode_rles([candidates[index].rle], sample.size_hw)[0]
        except DataError as error:
            raise DataError(f"{sample.json_path}: {error}") from error
        mask = crop.apply(whole_mask.astype(np.uint8) * 255) >= 128
        if config.min_area <= mask.sum() <= config.max_area_share * mask.size:
            masks.append(mask)
        if len(masks) == masks_per_image:
            break
    if not masks:
        return None
    chosen = [masks[index % len(masks)] for index in range(masks_per_image)]
    image = crop.apply(sample.read_image(crop.scale))
    height, width = crop.target_hw
    image[:height, :width] = jitter_colour(image[:height, :width], config.augmentation.colour, rng)
    return DrawnCrop(image, crop.target_hw, np.stack(chosen), sample, crop)


def in_pairs(order: Iterable[int], boxes_xywh: Sequence[tuple[float, ...]]) -> Iterator[int]:
    """The same order, but every other one moved up if there is one that may be whole or part of the one before.

    Two are taken for that where the centre of one's box lies in the other's box.
    """
    rest = [int(index) for index in order]
    while rest:
        first = rest.pop(0)
        yield first
        for index in rest:
            if _holds_centre(boxes_xywh[first], boxes_xywh[index]) or _holds_centre(
                boxes_xywh[index], boxes_xywh[first]
            ):
                rest.remove(index)
                yield index
                break


def _holds_centre(outer_xywh: tuple[float, ...], inner_xywh: tuple[float, ...]) -> bool:
    x, y, width, height = outer_xywh
    inner_x, inner_y, inner_width, inner_height = inner_xywh
    return x <= inner_x + inner_width / 2 <= x + width and y <= inner_y + inner_height / 2 <= y + height


def _overlaps(box_xywh: tuple[float, ...], window_xyxy: tuple[int, int, int, int]) -> bool:
    x, y, width, height = box_xywh
    x0, y0, x1, y1 = window_xyxy
    return x < x1 and x + width > x0 and y < y1 and y + height > y0


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
