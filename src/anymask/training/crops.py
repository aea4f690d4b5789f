"""A training crop of one image: what is seen, the masks that are asked for, and others that may be right answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from anymask.data.sa1b import Annotation, Sample
from anymask.errors import DataError
from anymask.geometry.rle import decode_rles
from anymask.training.augment import Crop, draw_crop, jitter_colour
from anymask.training.config import TrainConfig


class DrawnCrop(NamedTuple):
    """An augmented crop (S, S, 3) uint8, how much of it is image, masks of it (K, S, S) bool to ask for and others
    (A, S, S) that may be right answers, and what it is of.
    """

    image_hwc: np.ndarray
    size_hw: tuple[int, int]
    masks_khw: np.ndarray
    answers_khw: np.ndarray
    sample: Sample
    crop: Crop


def draw_sample(
    sample: Sample, config: TrainConfig, rng: np.random.Generator, others: Sequence[Annotation] = ()
) -> DrawnCrop | None:
    """A crop of one image and its masks, some of them twice where it has few; None where it has none.

    `others` are masks of the image that are not asked for. Raises `DataError`, naming the file, for a broken mask.
    """
    crop = draw_crop(sample.size_hw, config.crop_size, config.augmentation, rng)
    candidates = _in_crop(sample.annotations, sample, crop, config)
    in_order = (candidates[index] for index in rng.permutation(len(candidates)))
    asked = list(islice(_cropped_masks(in_order, sample, crop, config), config.masks_per_image))
    if not asked:
        return None
    chosen = [asked[index % len(asked)][1] for index in range(config.masks_per_image)]
    image = crop.apply(sample.read_image(crop.scale))
    height, width = crop.target_hw
    image[:height, :width] = jitter_colour(image[:height, :width], config.augmentation.colour, rng)
    answers = _draw_answers([annotation for annotation, _ in asked], others, sample, crop, config, rng)
    return DrawnCrop(image, crop.target_hw, np.stack(chosen), answers, sample, crop)


def _draw_answers(
    asked: list[Annotation],
    others: Sequence[Annotation],
    sample: Sample,
    crop: Crop,
    config: TrainConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Up to `answers_per_image` further masks (A, S, S) that may be whole or part of those asked for."""
    if not config.answers_per_image:
        return np.zeros((0, crop.crop_size, crop.crop_size), dtype=bool)
    not_asked = [annotation for annotation in sample.annotations if annotation not in asked]
    near = [
        annotation
        for annotation in _in_crop([*not_asked, *others], sample, crop, config)
        if any(_may_nest(annotation.bbox_xywh, one.bbox_xywh) for one in asked)
    ]
    in_order = (near[index] for index in rng.permutation(len(near)))
    masks = [mask for _, mask in islice(_cropped_masks(in_order, sample, crop, config), config.answers_per_image)]
    return np.array(masks, dtype=bool).reshape(-1, crop.crop_size, crop.crop_size)


def _in_crop(annotations: Iterable[Annotation], sample: Sample, crop: Crop, config: TrainConfig) -> list[Annotation]:
    """Those that may be seen in the crop and are not nearly the whole image."""
    image_area = sample.size_hw[0] * sample.size_hw[1]
    return [
        annotation
        for annotation in annotations
        if annotation.area <= config.max_area_share * image_area
        and _overlaps(annotation.bbox_xywh, (crop.x0, crop.y0, crop.x1, crop.y1))
    ]


def _cropped_masks(
    annotations: Iterable[Annotation], sample: Sample, crop: Crop, config: TrainConfig
) -> Iterator[tuple[Annotation, np.ndarray]]:
    """Those that the crop shows enough of, each with its mask (S, S) bool."""
    for annotation in annotations:
        try:
            whole_mask = decode_rles([annotation.rle], sample.size_hw)[0]
        except DataError as error:
            raise DataError(f"{sample.json_path}: {error}") from error
        mask = crop.apply(whole_mask.astype(np.uint8) * 255) >= 128
        if config.min_area <= mask.sum() <= config.max_area_share * mask.size:
            yield annotation, mask


def _may_nest(one_xywh: tuple[float, ...], other_xywh: tuple[float, ...]) -> bool:
    """Whether one may be whole or part of the other: the centre of one's box lies in the other's box."""
    return _holds_centre(one_xywh, other_xywh) or _holds_centre(other_xywh, one_xywh)


def _holds_centre(outer_xywh: tuple[float, ...], inner_xywh: tuple[float, ...]) -> bool:
    x, y, width, height = outer_xywh
    inner_x, inner_y, inner_width, inner_height = inner_xywh
    return x <= inner_x + inner_width / 2 <= x + width and y <= inner_y + inner_height / 2 <= y + height


def _overlaps(box_xywh: tuple[float, ...], window_xyxy: tuple[int, int, int, int]) -> bool:
    x, y, width, height = box_xywh
    x0, y0, x1, y1 = window_xyxy
    return x < x1 and x + width > x0 and y < y1 and y + height > y0
