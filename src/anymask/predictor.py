"""One image, many prompts: a thin session over one image embedding."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike

from anymask.data.images import ImageSource
from anymask.embedding import ImageEmbedding, encode_images
from anymask.errors import PromptError
from anymask.geometry.resize import mask_to_model
from anymask.model.image_encoder import ImageFeatures
from anymask.model.mask_decoder import NUM_MASK_OUTPUTS
from anymask.model.segmenter import PromptBatch, Segmenter
from anymask.prompts import CheckedPrompt, PointLabel, Prompt, check_prompt
from anymask.records import Masks

ALL_OUTPUTS = range(NUM_MASK_OUTPUTS)
# How sure a rough full-size mask is taken to be, as a logit (assumed: about what the decoder itself answers).
ROUGH_MASK_LOGIT = 8.0
# What stands outside `valid_mask` in the returned logits, so that an answer fed back stays inside (assumed).
INVALID_LOGIT = -16.0


class Predictor:
    """Answers prompts about one image. `set_image` is the slow part; every `predict` after it is quick."""

    def __init__(self, model: Segmenter, *, prompts_per_batch: int = 32) -> None:
        """`prompts_per_batch` bounds the memory of `predict_batch`."""
        self.model = model
        self.prompts_per_batch = prompts_per_batch
        self.embedding: ImageEmbedding | None = None
        self._features: ImageFeatures | None = None

    def set_image(self, image: ImageSource | ImageEmbedding) -> ImageEmbedding:
        """Encode an image (path, PIL, or array; see `read_image`), or take an embedding that is ready.

        Raises `ImageError` for what is no image and `EmbeddingError` for another model's embedding. When it
        raises, the image set before stays.
        """
        if isinstance(image, ImageEmbedding):
            image.require_model(self.model)
            embedding = image
        else:
            embedding = encode_images(self.model, [image])[0]
        with torch.inference_mode():
            self._features = self.model.prepare(embedding.features.to(self.model.device, self.model.dtype))
        self.embedding = embedding
        return embedding

    def reset_image(self) -> None:
        """Forget the image."""
        self.embedding = self._features = None

    def predict(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        mask_logits: ArrayLike | None = None,
        valid_mask: ArrayLike | None = None,
        multimask: bool | None = None,
    ) -> Masks:
        """The masks of one object; the arguments are the fields of `Prompt`. Raises `PromptError`."""
        return self.predict_batch([Prompt(points, labels, box, mask, mask_logits, valid_mask, multimask)])[0]

    @torch.inference_mode()
    def predict_batch(self, prompts: Sequence[Prompt]) -> list[Masks]:
        """The masks of many objects, each as if asked alone; prompts may be of different kinds and lengths.

        Raises `PromptError` when one cannot be answered or no image is set.
        """
        if self.embedding is None:
            raise PromptError("no image is set; call set_image before predict")
        frame = self.embedding.frame
        cells_hw = self.embedding.features.embedding.shape[-2:]
        logits_hw = (4 * cells_hw[0], 4 * cells_hw[1])
        checked = [check_prompt(prompt, frame.original_hw, logits_hw) for prompt in prompts]
        answers: list[Masks] = []
        for start in range(0, len(checked), self.prompts_per_batch):
            answers.extend(self._answer(checked[start : start + self.prompts_per_batch], logits_hw))
        return answers

    def _answer(self, prompts: list[CheckedPrompt], logits_hw: tuple[int, int]) -> list[Masks]:
        assert self._features is not None
        kinds = {_outputs(prompt) for prompt in prompts}
        drawn = next(iter(kinds)) if len(kinds) == 1 else ALL_OUTPUTS
        logits, ious = self.model.decode(
            self._features, self._to_tensors(prompts, logits_hw), outputs=slice(drawn.start, drawn.stop)
        )
        all_logits, all_ious = logits.float().cpu().numpy(), ious.float().cpu().numpy()
        return [
            self._choose(all_logits[row], all_ious[row], prompt, logits_hw, drawn.start)
            for row, prompt in enumerate(prompts)
        ]

    def _to_tensors(self, prompts: list[CheckedPrompt], logits_hw: tuple[int, int]) -> PromptBatch:
        """Checked prompts as one padded batch in model pixels on the model's device."""
        assert self.embedding is not None
        longest = max(len(prompt.labels) for prompt in prompts)
        points = np.zeros((len(prompts), longest, 2), dtype=np.float32)
        labels = np.full((len(prompts), longest), PointLabel.PADDING, dtype=np.int64)
        rough = [self._mask_logits(prompt, logits_hw) for prompt in prompts]
        has_mask = np.array([mask is not None for mask in rough])
        for row, prompt in enumerate(prompts):
            count = len(prompt.labels)
            points[row, :count] = self.embedding.frame.points_to_model(prompt.points_xy)
            labels[row, :count] = prompt.labels
        mask_logits = None
        if has_mask.any():
            stacked = np.stack([np.zeros(logits_hw, np.float32) if m is None else m for m in rough])
            mask_logits = torch.from_numpy(stacked)[:, None].to(self.model.device, self.model.dtype)
        device = self.model.device
        return PromptBatch(
            torch.from_numpy(points).to(device),
            torch.from_numpy(labels).to(device),
            mask_logits,
            None if mask_logits is None else torch.from_numpy(has_mask).to(device),
        )

    def _mask_logits(self, prompt: CheckedPrompt, logits_hw: tuple[int, int]) -> np.ndarray | None:
        if prompt.mask_hw is None:
            return prompt.mask_logits_hw
        assert self.embedding is not None
        share = mask_to_model(prompt.mask_hw, self.embedding.frame, logits_hw)
        return (2 * share - 1) * ROUGH_MASK_LOGIT

    def _choose(
        self,
        logits: np.ndarray,
        ious: np.ndarray,
        prompt: CheckedPrompt,
        logits_hw: tuple[int, int],
        first: int,
    ) -> Masks:
        """The outputs that the prompt asks for, best first; the logits are of output `first` and those after it."""
        assert self.embedding is not None
        outputs = np.array(_outputs(prompt))
        order = outputs[np.argsort(-ious[outputs], kind="stable")]
        chosen = logits[order - first]
        if prompt.valid_hw is not None:
            share = mask_to_model(prompt.valid_hw, self.embedding.frame, logits_hw)
            # One cell wider, for a valid pixel's logit is interpolated from the neighbouring cells too.
            is_near = cv2.dilate(share, np.ones((3, 3), np.uint8)) > 0
            chosen = np.where(is_near, chosen, np.float32(INVALID_LOGIT))
        return Masks(chosen, ious[order], order, self.embedding.frame, prompt.valid_hw, self.embedding.image_hwc)


def _outputs(prompt: CheckedPrompt) -> range:
    """The decoder outputs that answer a prompt: the ambiguous ones, or the single one."""
    return range(1, NUM_MASK_OUTPUTS) if prompt.is_multimask else range(1)
