"""What automatic mask generation is made of: grids, crops, filters, codes, and columns of data kept in step.

Boxes of masks here are x0, y0, x1, y1 with the last column and row INCLUDED, as in the reference; those of
`anymask.geometry` end one further. Legend: N masks, H W pixels.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from anymask.compat.segment_anything.errors import ArgumentError
from anymask.geometry import boxes as geometry_boxes
from anymask.geometry import regions
from anymask.geometry.crops import layered_crops, point_grid
from anymask.geometry.rle import decode_rle

Column = list[Any] | np.ndarray | Tensor


class MaskData:
    """Named columns of equal length (lists, arrays or tensors) about the same masks."""

    def __init__(self, **kwargs: Column) -> None:
        self._stats: dict[str, Any] = {}
        for key, item in kwargs.items():
            self[key] = item

    def __setitem__(self, key: str, item: Column) -> None:
        if not isinstance(item, list | np.ndarray | Tensor):
            raise ArgumentError(f"column {key!r} is a {type(item).__name__}; allowed: list, array or tensor")
        self._stats[key] = item

    def __delitem__(self, key: str) -> None:
        del self._stats[key]

    def __getitem__(self, key: str) -> Any:
        return self._stats[key]

    def items(self) -> ItemsView[str, Any]:
        return self._stats.items()

    def filter(self, keep: Tensor) -> None:
        """Keep of every column the rows that `keep` names: bool (N,), or indices in the wanted order."""
        rows = torch.nonzero(keep)[:, 0] if keep.dtype == torch.bool else keep
        for key, column in self._stats.items():
            if isinstance(column, Tensor):
                self._stats[key] = column[rows.to(column.device)]
            elif isinstance(column, np.ndarray):
                self._stats[key] = column[rows.cpu().numpy()]
            else:
                self._stats[key] = [column[row] for row in rows.tolist()]

    def cat(self, new_stats: MaskData) -> None:
        """Append another's columns; one that is not here yet is taken over as a copy."""
        for key, column in new_stats.items():
            before = self._stats.get(key)
            if isinstance(column, Tensor):
                self._stats[key] = column.clone() if before is None else torch.cat([before, column])
            elif isinstance(column, np.ndarray):
                self._stats[key] = column.copy() if before is None else np.concatenate([before, column])
            else:
                self._stats[key] = [*(before or []), *column]

    def to_numpy(self) -> None:
        """Turn every tensor into an array on the CPU."""
        for key, column in self._stats.items():
            if isinstance(column, Tensor):
                self._stats[key] = column.detach().cpu().numpy()


def batch_iterator(batch_size: int, *args: Any) -> Iterator[list[Any]]:
    """The sequences of equal length `args`, at most `batch_size` rows of each at a time."""
    if not args or any(len(arg) != len(args[0]) for arg in args):
        raise ArgumentError(f"args have the lengths {[len(arg) for arg in args]}; allowed: at least one, all equal")
    for start in range(0, len(args[0]), batch_size):
        yield [arg[start : start + batch_size] for arg in args]


# Boxes and filters.


def is_box_near_crop_edge(
    boxes: Tensor, crop_box: Sequence[int], orig_box: Sequence[int], atol: float = 20.0
) -> Tensor:
    """Which boxes (N, 4) of a crop's frame come within `atol` pixels of an edge of the crop, but not of the image."""
    placed = uncrop_boxes_xyxy(boxes, crop_box).float()
    near_crop, near_image = (
        (placed - torch.tensor(edges, dtype=torch.float, device=boxes.device)).abs() <= atol
        for edges in (crop_box, orig_box)
    )
    return (near_crop & ~near_image).any(dim=1)


def box_xyxy_to_xywh(box_xyxy: Any) -> Any:
    """One box x0, y0, x1, y1 (tensor, array or list) as x, y, width, height, of the same kind."""
    box = box_xyxy.clone() if isinstance(box_xyxy, Tensor) else box_xyxy.copy()
    box[2], box[3] = box[2] - box[0], box[3] - box[1]
    return box


def batched_mask_to_box(masks: Tensor) -> Tensor:
    """The boxes (..., 4), last column and row included, around masks (..., H, W) bool; zeros for an empty mask."""
    if masks.numel() == 0:
        return torch.zeros(*masks.shape[:-2], 4, device=masks.device)
    sides = []
    for has_pixel in (masks.any(dim=-2), masks.any(dim=-1)):
        as_number = has_pixel.to(torch.uint8)
        last = has_pixel.shape[-1] - 1 - as_number.flip(-1).argmax(dim=-1)
        sides.append((as_number.argmax(dim=-1), last))
    (left, right), (top, bottom) = sides
    boxes = torch.stack([left, top, right, bottom], dim=-1)
    return boxes * masks.flatten(-2).any(dim=-1)[..., None]


def box_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes (N, 4) that stay, best score first; of equal scores the earlier is the better.

    A box goes when it overlaps a better one that stays by more than the threshold.
    """
    order = scores.argsort(descending=True, stable=True)
    kept = geometry_boxes.box_nms(boxes[order].cpu().numpy(), iou_threshold)
    return order[torch.from_numpy(kept).to(order.device)]


def calculate_stability_score(masks: Tensor, mask_threshold: float, threshold_offset: float) -> Tensor:
    """IoU of the masks cut `threshold_offset` above and below the threshold: logits (..., H, W) to scores (...).

    An empty mask has no score (NaN).
    """
    inner, outer = (
        # On a CPU booleans are copied in the type of the sum before they are summed: int32 is half of int64.
        (masks > mask_threshold + offset).sum(dim=(-2, -1), dtype=torch.int32)
        for offset in (threshold_offset, -threshold_offset)
    )
    return inner / outer


def remove_small_regions(
    mask: np.ndarray, area_thresh: float, mode: Literal["holes", "islands"]
) -> tuple[np.ndarray, bool]:
    """A mask (H, W) without holes or islands under `area_thresh` pixels, and whether there were any.

    When every island is small the largest stays; that counts as changed even if it was the only one, as in the
    reference.
    """
    cleaned, is_changed = regions.remove_small_regions(mask, area_thresh, mode)
    only_small_island = mode == "islands" and 0 < np.count_nonzero(mask) < area_thresh
    return cleaned, bool(is_changed or only_small_island)


# Points and crops.


def build_point_grid(n_per_side: int) -> np.ndarray:
    """The centres (n * n, 2) x, y of n x n equal cells of the unit square, row by row."""
    if n_per_side < 1:
        raise ArgumentError(f"n_per_side is {n_per_side}; allowed: at least 1 point a side in every layer")
    return point_grid(n_per_side)


def build_all_layer_point_grids(n_per_side: int, n_layers: int, scale_per_layer: int) -> list[np.ndarray]:
    """The grid of the whole image and of each crop layer, every one coarser by `scale_per_layer`."""
    return [build_point_grid(int(n_per_side / scale_per_layer**layer)) for layer in range(n_layers + 1)]


def generate_crop_boxes(
    im_size: Sequence[int], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """The whole image (height, width) and its crops, x0, y0, x1, y1, with the layer of each (`layered_crops`).

    Within a layer they come column by column.
    """
    crops = layered_crops((im_size[0], im_size[1]), n_layers, overlap_ratio)
    crops.sort(key=lambda crop: (crop.layer, *crop.box_xyxy))
    return [list(crop.box_xyxy) for crop in crops], [crop.layer for crop in crops]


def uncrop_boxes_xyxy(boxes: Tensor, crop_box: Sequence[int]) -> Tensor:
    """Boxes (..., 4) of a crop's frame in the image's."""
    x0, y0 = crop_box[:2]
    return boxes + torch.tensor([x0, y0, x0, y0], device=boxes.device)


def uncrop_points(points: Tensor, crop_box: Sequence[int]) -> Tensor:
    """Points (..., 2) of a crop's frame in the image's."""
    return points + torch.tensor(crop_box[:2], device=points.device)


def uncrop_masks(masks: Tensor, crop_box: Sequence[int], orig_h: int, orig_w: int) -> Tensor:
    """Masks (N, h, w) of a crop at the image's size (N, orig_h, orig_w), empty outside the crop."""
    x0, y0, x1, y1 = crop_box
    if (x0, y0, x1, y1) == (0, 0, orig_w, orig_h):
        return masks
    return F.pad(masks, (x0, orig_w - x1, y0, orig_h - y1), value=0)


# Run-length codes: {"size": [H, W], "counts": lengths of runs of 0 and 1, column by column, 0 first}.


def mask_to_rle_pytorch(tensor: Tensor) -> list[dict[str, Any]]:
    """The uncompressed codes of masks (N, H, W) bool."""
    count, height, width = tensor.shape
    pixels = tensor.transpose(1, 2).flatten(1)
    rows, places = torch.nonzero(pixels[:, 1:] != pixels[:, :-1], as_tuple=True)
    changes = np.split((places + 1).cpu().numpy(), np.searchsorted(rows.cpu().numpy(), np.arange(1, count)))
    codes = []
    for starts_set, inner in zip(pixels[:, 0].tolist(), changes, strict=False):
        edges = np.concatenate([[0, 0] if starts_set else [0], inner, [height * width]])
        codes.append({"size": [height, width], "counts": np.diff(edges).tolist()})
    return codes


def rle_to_mask(rle: dict[str, Any]) -> np.ndarray:
    """The mask (H, W) bool of a code. Raises `DataError` when the code is broken."""
    return decode_rle(rle)


def area_from_rle(rle: dict[str, Any]) -> int:
    """The number of pixels set in an uncompressed code."""
    return sum(rle["counts"][1::2])


def coco_encode_rle(uncompressed_rle: dict[str, Any]) -> dict[str, Any]:
    """The code compressed as COCO does, its `counts` a str that fits into JSON."""
    code = coco_mask.frPyObjects(uncompressed_rle, *uncompressed_rle["size"])
    return {"size": code["size"], "counts": code["counts"].decode("ascii")}
