"""What comes out: the answers to one prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from anymask.geometry.polygons import mask_to_polygons
from anymask.geometry.resize import Frame, logits_to_original
from anymask.geometry.rle import Rle, encode_rles
from anymask.render import draw_overlay

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Masks:
    """K masks of one object, best first.

    logits: (K, h, w) float32 over the model's padded frame, cut at 0 for the mask; scores: (K,) float32 predicted IoU;
    token_index: (K,) which decoder output each came from (0 the single answer, 1 to 3 the ambiguous ones).
    Masks at the image's own size are made when asked for.
    """

    logits: np.ndarray
    scores: np.ndarray
    token_index: np.ndarray
    frame: Frame
    valid_hw: np.ndarray | None = field(default=None, repr=False)
    image_hwc: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.masks)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.masks[index]

    @cached_property
    def masks(self) -> np.ndarray:
        """All K masks (K, H, W) bool at the original size; `masks[0]` is the best."""
        masks = np.empty((len(self), *self.frame.original_hw), dtype=bool)
        masks[0] = self.best
        for index in range(1, len(self)):  # one at a time: float logits at full size are four times a mask
            masks[index] = self._at_original_size(index)
        return masks

    @cached_property
    def best(self) -> np.ndarray:
        """The mask the model is most confident of, (H, W) bool, without making the others."""
        return self._at_original_size(0)

    def to_rle(self) -> list[Rle]:
        """COCO run-length codes, {"size": [H, W], "counts": str} each."""
        return encode_rles(self.masks)

    def to_polygons(self) -> list[list[list[np.ndarray]]]:
        """Per mask its connected regions, per region its outline and then its holes, each (N, 2) int32 x, y."""
        return [mask_to_polygons(mask) for mask in self.masks]

    def show(self, image_hwc: np.ndarray | None = None) -> Image:
        """The best mask over the image as a PIL picture (a notebook displays it)."""
        from PIL import Image

        ground = self.image_hwc if image_hwc is None else image_hwc
        if ground is None:
            ground = np.zeros((*self.frame.original_hw, 3), dtype=np.uint8)
        return Image.fromarray(draw_overlay(ground, [self.best], texts=[f"{self.scores[0]:.2f}"]))

    def _at_original_size(self, index: int) -> np.ndarray:
        mask = logits_to_original(self.logits[index : index + 1], self.frame)[0] > 0
        return mask if self.valid_hw is None else mask & self.valid_hw
