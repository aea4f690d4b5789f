"""Images, points and boxes into the model's frame, as arrays and as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from anymask.geometry.resize import longest_side_size


class ResizeLongestSide:
    """Resizes so that the longest side has `target_length` pixels. Sizes are height, width; points x, then y."""

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """An HxWxC uint8 image resized by Pillow, bilinear with antialiasing: the filter that SAM was trained with."""
        height, width = self.get_preprocess_shape(image.shape[0], image.shape[1], self.target_length)
        pixels = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))

    def apply_coords(self, coords: np.ndarray, original_size: Sequence[int]) -> np.ndarray:
        """Points (..., 2) of the original as points of the resized image, float64."""
        return np.asarray(coords, dtype=np.float64) * self._scale_xy(original_size)

    def apply_boxes(self, boxes: np.ndarray, original_size: Sequence[int]) -> np.ndarray:
        """Boxes (B, 4) x0, y0, x1, y1 of the original as boxes of the resized image, float64."""
        return self.apply_coords(np.asarray(boxes).reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W), float, resized by torch; close to `apply_image`, not equal.

        The reference reads the size off the first two axes, which distorts every image; here it is the last two.
        """
        size_hw = self.get_preprocess_shape(image.shape[-2], image.shape[-1], self.target_length)
        return F.interpolate(image, size_hw, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords_torch(self, coords: Tensor, original_size: Sequence[int]) -> Tensor:
        """`apply_coords` on tensors, float32."""
        scale_xy = torch.tensor(self._scale_xy(original_size), dtype=torch.float32, device=coords.device)
        return coords.to(torch.float32) * scale_xy

    def apply_boxes_torch(self, boxes: Tensor, original_size: Sequence[int]) -> Tensor:
        """`apply_boxes` on tensors, float32."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Height and width, rounded half up, at least 1, of an image of `oldh` x `oldw` resized to that side."""
        return longest_side_size((oldh, oldw), long_side_length)

    def _scale_xy(self, original_size: Sequence[int]) -> tuple[float, float]:
        height, width = original_size
        new_height, new_width = self.get_preprocess_shape(height, width, self.target_length)
        return new_width / width, new_height / height
