"""The paper's fourth zero-shot experiment (section 7.4 and D.4): boxes of a detector in, instance masks out.

Each box is asked about; then the most confident of the three masks goes back together with the box, once, and
the answer to that is the instance's mask. It keeps the detector's category and confidence. `export_instances`
writes the answers as files, `instance_scores` has the rest.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anymask.data.sa1b import read_json
from anymask.errors import DataError
from anymask.evaluation.embeddings import show_image
from anymask.evaluation.predictions import PredictionFolder
from anymask.evaluation.protocol import Segmentable, describe
from anymask.evaluation.true_images import Progress, work_off
from anymask.evaluation.truth import TrueImage, TrueSet
from anymask.geometry.boxes import clip_boxes_xyxy, xywh_to_xyxy, xyxy_to_xywh
from anymask.geometry.rle import Rle, encode_rle
from anymask.prompts import Prompt

TRUE_BOXES = "true boxes"


@dataclass(frozen=True)
class InstanceSettings:
    """How masks are made; the paper's way unless changed.

    refine: feed the best mask back once. max_per_image: the most confident boxes of an image (COCO counts 100,
    LVIS 300). max_images: at most so many of a set, evenly spaced. Raises DataError for what is not allowed.
    """

    refine: bool = True
    max_per_image: int = 300
    max_images: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_per_image", "max_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} is {value}; allowed: 1 or more")


@dataclass(frozen=True)
class DetectedBox:
    """A box x, y, width, height with its category and confidence.

    A true box has no confidence (its mask's own stands in) but the index of its object in the truth.
    """

    bbox_xywh: tuple[float, float, float, float]
    category_id: int | None
    score: float | None
    object_index: int | None = None


class Detections:
    """The boxes of a detector's results file in COCO's format, by image.

    The file is a list of {image_id, category_id, bbox [x, y, width, height], score}; other keys, such as the
    detector's own masks, are passed over. Raises DataError, naming the file, for anything else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        content = read_json(self.path)
        if not isinstance(content, list):
            raise DataError(f"{path}: holds a {type(content).__name__}; allowed: a list, COCO's results format")
        self._boxes: dict[Any, list[DetectedBox]] = defaultdict(list)
        for index, entry in enumerate(content):
            try:
                x, y, width, height = (float(value) for value in entry["bbox"])
                score = float(entry["score"])
                if not np.isfinite([x, y, width, height, score]).all():
                    raise ValueError("a number is not finite")
                box = DetectedBox((x, y, width, height), int(entry["category_id"]), score)
                self._boxes[entry["image_id"]].append(box)
            except (KeyError, TypeError, ValueError) as error:
                allowed = "image_id, category_id, bbox x, y, width, height and score"
                raise DataError(f"{path}: [{index}] is no detection ({error!r}); allowed: {allowed}") from error

    def of(self, image: TrueImage) -> list[DetectedBox]:
        """The image's boxes, the most confident first."""
        return sorted(self._boxes.get(image.image_id, []), key=lambda box: -(box.score or 0.0))

    def describe(self) -> str:
        """The file's name and digest."""
        return f"{self.path.name} {hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]}"


class TrueBoxes:
    """The boxes of the truth itself, but for crowds: what masks would be worth after a perfect detector."""

    def of(self, image: TrueImage) -> list[DetectedBox]:
        """The image's boxes in the file's order."""
        return [
            DetectedBox(thing.bbox_xywh, thing.category_id, None, index)
            for index, thing in enumerate(image.objects)
            if not thing.is_crowd
        ]

    def describe(self) -> str:
        """Their name."""
        return TRUE_BOXES


Boxes = Detections | TrueBoxes


def export_instances(
    judged: Segmentable,
    truth: TrueSet,
    boxes: Boxes,
    out: str | Path,
    settings: InstanceSettings,
    embeddings: str | Path | None = None,
    progress: Progress | None = None,
    workers: int = 1,
) -> PredictionFolder:
    """Write a mask for each box of every image to the folder `out`; what is done is passed over.

    `embeddings` is a folder that keeps a model's embeddings; `workers` processes share the images. Raises DataError
    when `out` holds other predictions or a picture is missing.
    """
    config = {
        "experiment": "instances",
        "model": describe(judged),
        "settings": asdict(settings),
        "boxes": boxes.describe(),
        **truth.describe(),
    }
    predictions = PredictionFolder.create(out, config)
    answer = partial(_answer, judged, boxes, settings, embeddings)
    work_off(answer, truth, predictions, settings.max_images, progress, workers)
    return predictions


def _answer(
    judged: Segmentable, boxes: Boxes, settings: InstanceSettings, embeddings: str | Path | None, image: TrueImage
) -> dict[str, Any]:
    """What is written of one image."""
    return {"instances": _predict(judged, image, boxes.of(image), settings, embeddings)}


def _predict(
    judged: Segmentable,
    image: TrueImage,
    boxes: Sequence[DetectedBox],
    settings: InstanceSettings,
    embeddings: str | Path | None,
) -> list[dict[str, Any]]:
    """One image's instances as JSON values: box, category, confidence, and the masks before and after."""
    clipped = clip_boxes_xyxy(xywh_to_xyxy([box.bbox_xywh for box in boxes] or np.zeros((0, 4))), image.size_hw)
    # A box of no area inside the image can't be asked about; nor could it match anything.
    kept = [index for index, (x0, y0, x1, y1) in enumerate(clipped) if x0 < x1 and y0 < y1][: settings.max_per_image]
    if not kept:
        return []
    show_image(judged, image.require_path(), embeddings)
    corners = [tuple(float(side) for side in clipped[index]) for index in kept]
    first = [_Best(answer.masks[0], answer) for answer in judged.predict_batch([Prompt(box=box) for box in corners])]
    last = first
    if settings.refine:
        prompts = [Prompt(box=box, mask_logits=best.logits) for box, best in zip(corners, first, strict=True)]
        last = [_Best(answer.masks[0], answer) for answer in judged.predict_batch(prompts)]
    instances = []
    for place, index in enumerate(kept):
        box, before, after = boxes[index], first[place], last[place]
        instances.append(
            {
                "bbox": [float(value) for value in xyxy_to_xywh(clipped[index])],
                "category_id": box.category_id,
                "object": box.object_index,
                # The detector's confidence; that of the mask where there was no detector (assumed).
                "score": after.score if box.score is None else box.score,
                "first": before.rle,
                "segmentation": after.rle,
                "predicted_iou": after.score,
            }
        )
    return instances


class _Best:
    """The most confident mask of an answer as a code, so that no full-size mask is kept."""

    def __init__(self, mask_hw: np.ndarray, answer: Any) -> None:
        self.rle: Rle = encode_rle(mask_hw)
        self.score = float(answer.scores[0])
        self.logits = np.array(answer.logits[:1])
