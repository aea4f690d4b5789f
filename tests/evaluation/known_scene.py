"""A small data set in SA-1B's layout and judged "models" whose answers are known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anymask.geometry.boxes import masks_to_boxes_xyxy
from anymask.prompts import Prompt


class FixedAnswer(NamedTuple):
    """What a judged model gives for one prompt."""

    masks: np.ndarray
    scores: np.ndarray
    logits: np.ndarray


class Knowing:
    """Knows the true masks of every image and answers with what `answer` makes of the one that is meant.

    `answer(truth_hw, is_multimask)` returns masks (K, H, W), best first. The object that is meant is the one
    under the first click, or the one with that box. Keeps what it was asked.
    """

    def __init__(self, answer: Callable[[np.ndarray, bool], np.ndarray]) -> None:
        self.answer = answer
        self.known: dict[bytes, np.ndarray] = {}
        self.images_seen: list[bytes] = []
        self.batches: list[list[Prompt]] = []

    def learn(self, image: np.ndarray, masks_khw: np.ndarray) -> None:
        self.known[image.tobytes()] = masks_khw

    def set_image(self, image: np.ndarray) -> None:
        self.images_seen.append(image.tobytes())

    def predict_batch(self, prompts: Sequence[Prompt]) -> list[FixedAnswer]:
        self.batches.append(list(prompts))
        return [self._one(prompt) for prompt in prompts]

    def _one(self, prompt: Prompt) -> FixedAnswer:
        masks_khw = self.known[self.images_seen[-1]]
        if prompt.box is not None:
            meant = (masks_to_boxes_xyxy(masks_khw) == np.asarray(prompt.box)).all(axis=1)
        else:
            x, y = np.asarray(prompt.points, dtype=int)[0]
            meant = masks_khw[:, y, x]
        assert meant.sum() == 1
        answer = self.answer(masks_khw[meant.argmax()], prompt.multimask is True)
        scores = np.linspace(0.9, 0.5, len(answer), dtype=np.float32)
        return FixedAnswer(answer, scores, np.full((len(answer), 4, 4), len(self.batches), dtype=np.float32))


class Scene(NamedTuple):
    """Three images in a folder named shapes/test, and what is true of them."""

    folder: Path
    names: list[str]
    images: list[np.ndarray]
    masks: list[np.ndarray]

    def judge(self, answer: Callable[[np.ndarray, bool], np.ndarray]) -> Knowing:
        """A model that knows this scene."""
        judged = Knowing(answer)
        for image, masks_khw in zip(self.images, self.masks, strict=True):
            judged.learn(image, masks_khw)
        return judged
