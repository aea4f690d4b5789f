"""One image, many prompts, as the reference's clients ask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.compat.segment_anything.errors import ArgumentError, NoImageError
from anymask.compat.segment_anything.modeling.sam import decode_prompts
from anymask.compat.segment_anything.utils.transforms import ResizeLongestSide

IMAGE_FORMATS = ("RGB", "BGR")


class SamPredictor:
    """Encodes an image once and answers prompts about it.

    `model`, `transform`, `features`, `original_size`, `input_size` and `is_image_set` are the whole state; clients
    may read and write them, for instance to bring an embedding that was computed before.
    """

    def __init__(self, sam_model: Any) -> None:
        """`sam_model` is a `Sam`, what `as_reference` returns, or anything else with the reference's surface."""
        self.model = sam_model
        self.transform = ResizeLongestSide(sam_model.image_encoder.img_size)
        self.reset_image()

    @property
    def device(self) -> torch.device:
        return self.model.device

    def reset_image(self) -> None:
        """Forget the image, its sizes too."""
        self.is_image_set = False
        self.features: Tensor | None = None
        self.original_size: tuple[int, ...] | None = None
        self.input_size: tuple[int, ...] | None = None

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Encode an HxWx3 uint8 image whose channels are in the order `image_format`, "RGB" or "BGR"."""
        if image_format not in IMAGE_FORMATS:
            raise ArgumentError(f"image_format is {image_format!r}; allowed: {' or '.join(IMAGE_FORMATS)}")
        if image_format != self.model.image_format:
            image = image[..., ::-1]
        resized = self.transform.apply_image(np.ascontiguousarray(image))
        pixels = torch.as_tensor(resized, device=self.device).permute(2, 0, 1).contiguous()[None]
        self.set_torch_image(pixels, (image.shape[0], image.shape[1]))

    @torch.no_grad()
    def set_torch_image(self, transformed_image: Tensor, original_image_size: tuple[int, ...]) -> None:
        """Encode an image (1, 3, h, w) on 0 to 255 that is already resized to the model's frame.

        `original_image_size` is its height and width before that.
        """
        side = self.model.image_encoder.img_size
        shape = tuple(transformed_image.shape)
        if len(shape) != 4 or shape[1] != 3 or max(shape[2:]) != side:
            raise ArgumentError(f"transformed_image has shape {shape}; allowed: (1, 3, h, w), the longest side {side}")
        self.reset_image()
        self.features = self.model.image_encoder(self.model.preprocess(transformed_image))
        self.original_size = tuple(original_image_size)
        self.input_size = shape[2:]
        self.is_image_set = True

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The masks of one object: masks (C, H, W) bool, predicted IoU (C,), low-resolution logits (C, h, w).

        point_coords (N, 2) x, y in pixels of the original with point_labels (N,), 1 foreground and 0 background; box
        (4,) x0, y0, x1, y1; mask_input (1, h, w), an earlier answer's logits. Any mixture, a mask alone too. C is 3,
        or 1 without `multimask_output`; with `return_logits` the masks are float logits.
        """
        original_size = self._require_image()
        points, labels, boxes, masks = None, None, None, None
        if point_coords is not None:
            if point_labels is None:
                raise ArgumentError("point_labels is None; allowed with point_coords: one label per point")
            coords = self.transform.apply_coords(point_coords, original_size)
            points = torch.as_tensor(coords, dtype=torch.float, device=self.device)[None]
            labels = torch.as_tensor(point_labels, dtype=torch.int, device=self.device)[None]
        if box is not None:
            corners = self.transform.apply_boxes(box, original_size)
            boxes = torch.as_tensor(corners, dtype=torch.float, device=self.device)
        if mask_input is not None:
            masks = torch.as_tensor(mask_input, dtype=torch.float, device=self.device)[None]
        answers = self.predict_torch(points, labels, boxes, masks, multimask_output, return_logits)
        return tuple(answer[0].detach().cpu().numpy() for answer in answers)  # type: ignore[return-value]

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The masks of B objects: masks (B, C, H, W), predicted IoU (B, C), low-resolution logits (B, C, h, w).

        Coordinates are in the model's frame (`transform`): point_coords (B, N, 2), point_labels (B, N), where -1 fills
        up shorter prompts and changes no answer, boxes (B, 4), mask_input (B, 1, h, w).
        """
        features = self.get_image_embedding()
        points = None
        if point_coords is not None:
            if point_labels is None:
                raise ArgumentError("point_labels is None; allowed with point_coords: one label per point")
            points = point_coords, point_labels
        logits, ious = decode_prompts(self.model, features, points, boxes, mask_input, multimask_output)
        masks = self.model.postprocess_masks(logits, self.input_size, self.original_size)
        return masks if return_logits else masks > self.model.mask_threshold, ious, logits

    def get_image_embedding(self) -> Tensor:
        """The image's embedding (1, C, h, w)."""
        self._require_image()
        assert self.features is not None
        return self.features

    def _require_image(self) -> tuple[int, ...]:
        """The image's original height and width."""
        if not self.is_image_set or self.features is None or self.original_size is None:
            raise NoImageError("no image is set; call set_image or set_torch_image before asking")
        return self.original_size
