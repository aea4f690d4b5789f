"""Every mask of an image: a grid of points, filters, and one mask per thing (paper 4 and B), as the reference does it.

It differs from the paper where the reference does: no filter by coverage, no minimal area unless asked for. Memory is
bounded: masks are filtered by their predicted IoU before they are brought to full size, and brought there in parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.compat.segment_anything.errors import ArgumentError
from anymask.compat.segment_anything.modeling.sam import decode_prompts
from anymask.compat.segment_anything.predictor import SamPredictor
from anymask.compat.segment_anything.utils.amg import (
    MaskData,
    area_from_rle,
    batch_iterator,
    batched_mask_to_box,
    box_nms,
    box_xyxy_to_xywh,
    build_all_layer_point_grids,
    calculate_stability_score,
    coco_encode_rle,
    generate_crop_boxes,
    is_box_near_crop_edge,
    mask_to_rle_pytorch,
    remove_small_regions,
    rle_to_mask,
    uncrop_boxes_xyxy,
    uncrop_masks,
    uncrop_points,
)

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
# Full-size logits at a time: 64 MB in float32 (assumed to be small beside the image encoder's needs).
PIXELS_AT_ONCE = 1 << 24


class SamAutomaticMaskGenerator:
    """Segments everything. Its arguments can be read and written as attributes."""

    def __init__(
        self,
        model: Any,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
    ) -> None:
        """Points: a grid of `points_per_side` squared, coarser by `crop_n_points_downscale_factor` from one layer of
        crops to the next; or `point_grids`, one (N, 2) x, y in [0, 1] per layer.

        Kept are masks with a predicted IoU over `pred_iou_thresh` and a stability, at that offset, of at least
        `stability_score_thresh`; of boxes that overlap by more than `box_nms_thresh` within a crop, or
        `crop_nms_thresh` between crops, the better one (a threshold of 0 keeps all for the first two). Holes and
        islands under `min_mask_region_area` pixels are removed. `output_mode` is the form of `segmentation`.
        """
        if (points_per_side is None) == (point_grids is None):
            raise ArgumentError(
                f"points_per_side is {points_per_side} and point_grids is {'' if point_grids is None else 'not '}None; "
                "allowed: exactly one of them"
            )
        if output_mode not in OUTPUT_MODES:
            raise ArgumentError(f"output_mode is {output_mode!r}; allowed: {', '.join(OUTPUT_MODES)}")
        if points_per_side is not None:
            point_grids = build_all_layer_point_grids(points_per_side, crop_n_layers, crop_n_points_downscale_factor)
        self.point_grids: Any = point_grids
        self.predictor: Any = SamPredictor(model)
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode

    @torch.no_grad()
    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        """The masks of an HxWx3 uint8 image.

        Each a dict: `segmentation` (bool (H, W), or a code), `area` in pixels, `bbox` x, y, width, height,
        `predicted_iou`, `point_coords` [[x, y]] of the point that gave it, `stability_score`, and `crop_box`
        x, y, width, height of the crop in which it was found.
        """
        data = self._generate_masks(image)
        if self.min_mask_region_area > 0:
            nms_thresh = max(self.box_nms_thresh, self.crop_nms_thresh)
            data = self.postprocess_small_regions(data, self.min_mask_region_area, nms_thresh)
        encode = {"binary_mask": rle_to_mask, "coco_rle": coco_encode_rle}.get(self.output_mode, lambda rle: rle)
        return [
            {
                "segmentation": encode(rle),
                "area": area_from_rle(rle),
                "bbox": box_xyxy_to_xywh(data["boxes"][row]).tolist(),
                "predicted_iou": data["iou_preds"][row].item(),
                "point_coords": [data["points"][row].tolist()],
                "stability_score": data["stability_score"][row].item(),
                "crop_box": box_xyxy_to_xywh(data["crop_boxes"][row]).tolist(),
            }
            for row, rle in enumerate(data["rles"])
        ]

    def _generate_masks(self, image: np.ndarray) -> MaskData:
        """The masks of all crops, as arrays and codes in the image's frame."""
        size_hw = image.shape[:2]
        crop_boxes, layers = generate_crop_boxes(size_hw, self.crop_n_layers, self.crop_overlap_ratio)
        data = MaskData()
        for crop_box, layer in zip(crop_boxes, layers, strict=True):
            data.cat(self._process_crop(image, crop_box, layer, size_hw))
        if len(crop_boxes) > 1:
            # The smaller the crop, the finer its masks: they win over those of the whole image.
            width, height = (data["crop_boxes"][:, 2:] - data["crop_boxes"][:, :2]).unbind(1)
            data.filter(box_nms(data["boxes"], 1 / (width * height), self.crop_nms_thresh))
        data.to_numpy()
        return data

    def _process_crop(
        self, image: np.ndarray, crop_box: list[int], crop_layer_idx: int, orig_size: tuple[int, ...]
    ) -> MaskData:
        """The masks of one crop, without duplicates, in the image's frame."""
        x0, y0, x1, y1 = crop_box
        crop = image[y0:y1, x0:x1]
        self.predictor.set_image(crop)
        points_xy = self.point_grids[crop_layer_idx] * (x1 - x0, y1 - y0)
        data = MaskData()
        for (points,) in batch_iterator(self.points_per_batch, points_xy):
            data.cat(self._process_batch(points, crop.shape[:2], crop_box, orig_size))
        self.predictor.reset_image()
        data.filter(box_nms(data["boxes"], data["iou_preds"], self.box_nms_thresh))
        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["points"] = uncrop_points(data["points"], crop_box)
        data["crop_boxes"] = torch.tensor(crop_box).expand(len(data["rles"]), -1)
        return data

    def _process_batch(
        self, points: np.ndarray, im_size: tuple[int, ...], crop_box: list[int], orig_size: tuple[int, ...]
    ) -> MaskData:
        """The masks of points (N, 2) of a crop that pass the filters; boxes and points in the crop's frame."""
        orig_h, orig_w = orig_size
        threshold = self.predictor.model.mask_threshold
        data = MaskData()
        for logits, ious, own_points in self._full_size_logits(points, im_size):
            stability = calculate_stability_score(logits, threshold, self.stability_score_offset)
            masks = logits > threshold
            del logits
            part = MaskData(masks=masks, iou_preds=ious, points=own_points, stability_score=stability)
            del masks
            if self.stability_score_thresh > 0.0:
                part.filter(stability >= self.stability_score_thresh)
            part["boxes"] = batched_mask_to_box(part["masks"]).long()
            part.filter(~is_box_near_crop_edge(part["boxes"], crop_box, [0, 0, orig_w, orig_h]))
            part["rles"] = mask_to_rle_pytorch(uncrop_masks(part["masks"], crop_box, orig_h, orig_w))
            del part["masks"]
            data.cat(part)
        return data

    def _full_size_logits(
        self, points: np.ndarray, im_size: tuple[int, ...]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The masks of a batch of points that pass by predicted IoU, some at a time and at least once.

        Logits (K, H, W) of the crop, IoU (K,) and points (K, 2). A predictor with a `predict_torch` of its own is
        asked through that, a few points at a time.
        """
        predictor = self.predictor
        coords = predictor.transform.apply_coords(points, im_size)
        in_points = torch.as_tensor(coords, dtype=torch.float, device=predictor.device)[:, None]
        in_labels = torch.ones(in_points.shape[:2], dtype=torch.int, device=in_points.device)
        # On their way they pass through the size of the model's square.
        pixels = max(im_size[0] * im_size[1], predictor.model.image_encoder.img_size**2)
        masks_at_once = max(1, PIXELS_AT_ONCE // pixels)
        if getattr(type(predictor), "predict_torch", None) is not SamPredictor.predict_torch:
            few = max(1, masks_at_once // 3)
            for own, its_points, its_labels in batch_iterator(few, points, in_points, in_labels):
                logits, ious, _ = predictor.predict_torch(
                    its_points, its_labels, multimask_output=True, return_logits=True
                )
                yield self._filter_by_iou(logits, ious, own)
            return
        low_res, ious = decode_prompts(predictor.model, predictor.features, (in_points, in_labels), None, None, True)
        low_res, ious, own_points = self._filter_by_iou(low_res, ious, points)
        for start in range(0, max(1, len(low_res)), masks_at_once):
            rows = slice(start, start + masks_at_once)
            logits = predictor.model.postprocess_masks(
                low_res[rows, None], predictor.input_size, predictor.original_size
            )
            yield logits[:, 0], ious[rows], own_points[rows]

    def _filter_by_iou(self, masks: Tensor, ious: Tensor, points: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w), (B, C) and (B, 2) as the K rows that pass: (K, h, w), (K,), (K, 2)."""
        own_points = torch.as_tensor(points).repeat_interleave(masks.shape[1], dim=0)
        masks, ious = masks.flatten(0, 1), ious.flatten()
        if self.pred_iou_thresh > 0.0:
            passed = ious > self.pred_iou_thresh
            masks, ious, own_points = masks[passed], ious[passed], own_points[passed.cpu()]
        return masks, ious, own_points

    @staticmethod
    def postprocess_small_regions(mask_data: MaskData, min_area: int, nms_thresh: float) -> MaskData:
        """Remove holes and islands under `min_area` pixels, and the duplicates that this makes.

        Of duplicates a mask that was left as it is wins over one that was changed. Changes `mask_data`.
        """
        rles: Sequence[dict[str, Any]] = mask_data["rles"]
        if not rles:
            return mask_data
        boxes, is_changed = [], []
        for row, rle in enumerate(rles):
            mask, had_holes = remove_small_regions(rle_to_mask(rle), min_area, "holes")
            mask, had_islands = remove_small_regions(mask, min_area, "islands")
            cleaned = torch.as_tensor(mask)[None]
            boxes.append(batched_mask_to_box(cleaned))
            is_changed.append(had_holes or had_islands)
            if is_changed[-1]:
                mask_data["rles"][row] = mask_to_rle_pytorch(cleaned)[0]
                mask_data["boxes"][row] = boxes[-1][0]
        keep = box_nms(torch.cat(boxes), 1.0 - torch.tensor(is_changed, dtype=torch.float), nms_thresh)
        mask_data.filter(keep)
        return mask_data
