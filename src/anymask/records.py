"""What comes out: the answers to one prompt, and the masks of an image with what is known about each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from anymask.geometry.hierarchy import parent_ids
from anymask.geometry.polygons import mask_to_polygons
from anymask.geometry.resize import Frame, mask_at_original
from anymask.geometry.rle import (
    Rle,
    decode_rle,
    encode_rle,
    encode_rles,
    rle_area,
    rle_size_hw,
    rle_to_box_xywh,
)
from anymask.render import draw_overlay

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Masks:
    """K masks of one object, best first.

    logits: (K, h, w) float32 over the model's padded frame, cut at 0 for the mask; scores: (K,) float32
    predicted IoU; token_index: (K,) which decoder output each came from (0 the single answer, 1 to 3 the
    ambiguous ones). Masks at the image's own size are made when asked for.
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
        """Per mask its connected regions; per region its outline, then its holes, each (N, 2) int32 x, y."""
        return [mask_to_polygons(mask) for mask in self.masks]

    def show(self, image_hwc: np.ndarray | None = None) -> Image:
        """The best mask over the image as a PIL picture (a notebook displays it)."""
        from PIL import Image

        ground = self.image_hwc if image_hwc is None else image_hwc
        if ground is None:
            ground = np.zeros((*self.frame.original_hw, 3), dtype=np.uint8)
        return Image.fromarray(draw_overlay(ground, [self.best], texts=[f"{self.scores[0]:.2f}"]))

    def _at_original_size(self, index: int) -> np.ndarray:
        mask = mask_at_original(self.logits[index], self.frame)
        return mask if self.valid_hw is None else mask & self.valid_hw


@dataclass(frozen=True)
class MaskRecord:
    """One mask of an image and what is known about it, under SA-1B's names (paper, section 5).

    id: unique within the image. segmentation: COCO run-length code. area: pixels. bbox_xywh and
    crop_box_xywh: pixels; the crop is the part of the image that the mask was made from. predicted_iou and
    stability_score: 0 to 1; point_coords: the clicks [[x, y], ...] that asked for it; None where no model
    made the mask. category: its class's name. parent_id: the id of the mask it is a part of. extra: further
    keys of the file it was read from.
    """

    id: int
    segmentation: Rle
    area: int
    bbox_xywh: tuple[float, float, float, float]
    crop_box_xywh: tuple[float, float, float, float]
    predicted_iou: float | None = None
    stability_score: float | None = None
    point_coords: list[list[float]] | None = None
    category: str | None = None
    parent_id: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_rle(cls, id: int, segmentation: Rle, **facts: Any) -> MaskRecord:
        """A record whose area and box are worked out from the code; the crop is the whole image unless given.

        `facts` are the further fields by name. Raises DataError when the code is broken.
        """
        height, width = rle_size_hw(segmentation)
        whole = (0.0, 0.0, float(width), float(height))
        area, box = rle_area(segmentation), rle_to_box_xywh(segmentation)
        return cls(id, segmentation, area, box, **{"crop_box_xywh": whole, **facts})

    @classmethod
    def from_mask(cls, id: int, mask_hw: np.ndarray, **facts: Any) -> MaskRecord:
        """A record of a mask (H, W) of bool or integers; `facts` as for `from_rle`."""
        return cls.from_rle(id, encode_rle(mask_hw), **facts)

    @property
    def size_hw(self) -> tuple[int, int]:
        """The image's height and width."""
        return rle_size_hw(self.segmentation)

    @property
    def mask(self) -> np.ndarray:
        """The mask (H, W) bool, decoded anew each time. Raises DataError when the code is broken."""
        return decode_rle(self.segmentation)

    def facts(self) -> dict[str, Any]:
        """What is known besides the mask, under the names that files have; the unknown is left out."""
        known = {
            "predicted_iou": self.predicted_iou,
            "stability_score": self.stability_score,
            "point_coords": self.point_coords,
            "crop_box": list(self.crop_box_xywh),
            "category": self.category,
            "parent_id": self.parent_id,
        }
        return self.extra | {key: value for key, value in known.items() if value is not None}

    def to_sa1b(self) -> dict[str, Any]:
        """The annotation as SA-1B's JSON has it, with `category` and `parent_id` where they are known."""
        own = {
            "id": self.id,
            "segmentation": self.segmentation,
            "area": self.area,
            "bbox": list(self.bbox_xywh),
        }
        return {**own, **self.facts(), **own}  # own first in the file, and never overruled


def with_parents(records: Sequence[MaskRecord], containment: float = 0.9) -> list[MaskRecord]:
    """The records of one image, each with the `parent_id` that `geometry.hierarchy.parent_ids` finds."""
    parents = parent_ids([record.segmentation for record in records], containment)
    return [
        replace(record, parent_id=None if parent is None else records[parent].id)
        for record, parent in zip(records, parents, strict=True)
    ]
