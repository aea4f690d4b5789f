"""What the experiments on a `TrueSet` share: answers to each of its images, written to files and read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anymask.errors import DataError
from anymask.evaluation.predictions import PredictionFolder, evenly_spaced
from anymask.evaluation.processes import work_in_processes
from anymask.evaluation.truth import TrueImage, TrueSet

# Called with the set's name, how many of its images are done and how many there are.
Progress = Callable[[str, int, int], None]
Answer = Callable[[TrueImage], dict[str, Any]]


@dataclass(frozen=True)
class _Work:
    answer: Answer
    truth: TrueSet
    predictions: PredictionFolder


def work_off(
    answer: Answer,
    truth: TrueSet,
    predictions: PredictionFolder,
    max_images: int | None,
    progress: Progress | None = None,
    workers: int = 1,
) -> None:
    """Write `answer(image)`, JSON values by name, for every image that has no file yet, in `workers` processes."""
    keys = evenly_spaced(truth.keys, max_images)
    missing = [key for key in keys if not predictions.has(truth.image_name(key))]
    done = len(keys) - len(missing)
    if progress is not None and done:
        progress(truth.name, done, len(keys))
    for _ in work_in_processes(_answer_and_write, _Work(answer, truth, predictions), missing, workers):
        done += 1
        if progress is not None:
            progress(truth.name, done, len(keys))


def read_predictions(predictions: PredictionFolder, image: TrueImage, key: str) -> list[dict[str, Any]]:
    """The list under `key` in one image's file. Raises DataError when it is broken or the truth has changed."""
    path = predictions.image_path(image.name)
    content = predictions.read(image.name)
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise DataError(f"{path}: has no list of {key}")
    if content.get("truth") != image.digest:
        raise DataError(f"{path}: the truth of {image.name} has changed since the predictions were made")
    return content[key]


def _answer_and_write(shared: _Work, key: Any) -> None:
    image = shared.truth.image(key)
    shared.predictions.write(image.name, {"image": image.name, "truth": image.digest, **shared.answer(image)})
