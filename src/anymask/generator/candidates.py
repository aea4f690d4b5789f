"""From one crop's points to candidate masks: decoded in batches, filtered, and kept as run-length codes alone.

Nothing here grows with prompts times full resolution: of each batch's three low-resolution masks a point only
those with a high enough predicted IoU are looked at, one after the other, strip by strip at full resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from anymask.embedding import ImageEmbedding
from anymask.geometry.crops import Crop, touches_inner_border
from anymask.geometry.resize import Frame, logit_strips
from anymask.geometry.rle import Rle, encode_runs, find_runs, runs_to_box_xyxy
from anymask.model.segmenter import PromptBatch, Segmenter
from anymask.prompts import PointLabel

# Floats that decoding one prompt needs at its peak, for each cell and channel of the image embedding ("measured":
# tiny, which draws prompts as maps, 13.7; decoders like the paper's 5.8 to 7.5).
FLOATS_WITH_PROMPT_MAPS, FLOATS_WITHOUT = 14, 8
# A big batch suits a GPU ("assumed"); on a CPU its maps no longer fit the cache ("measured" with tiny on one core:
# 10 ms a point in batches of 8, 13 in 32, 14 in 64).
BATCH_ON_CPU, BATCH_ELSEWHERE = 8, 64


@dataclass(frozen=True)
class Candidate:
    """One mask of the image, with what is needed to choose between it and others.

    rle: at the image's size. box_xyxy: tight, in image pixels. area: pixels. point_xy: the click, image pixels.
    """

    rle: Rle
    box_xyxy: tuple[int, int, int, int]
    area: int
    predicted_iou: float
    stability_score: float
    point_xy: tuple[float, float]
    crop: Crop


@dataclass(frozen=True)
class Scene:
    """The image that candidates belong to, and which of them are wanted.

    roi_wh: the pixels that masks may have, bool, transposed (W, H), or None. Areas are in pixels, `max_coverage` is
    a share of the image. The rest: see `MaskGenerator`.
    """

    size_hw: tuple[int, int]
    roi_wh: np.ndarray | None
    pred_iou_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    max_coverage: float
    min_area: float
    max_area: float
    crop_edge_tolerance: float

    def allows_area(self, area: int) -> bool:
        """Whether a mask of so many pixels is wanted; an empty one never is, nor one that covers the image."""
        return 0 < area < self.coverage_limit and self.min_area <= area <= self.max_area

    @property
    def coverage_limit(self) -> float:
        """The pixels from which on a mask counts as covering the image."""
        return self.max_coverage * self.size_hw[0] * self.size_hw[1]


def batch_size(model: Segmenter, embedding: ImageEmbedding, points_per_batch: int | None, memory_mb: float) -> int:
    """How many points to decode at once: `points_per_batch` (None: what the device likes), as memory allows."""
    wanted = points_per_batch or (BATCH_ON_CPU if model.device.type == "cpu" else BATCH_ELSEWHERE)
    floats = FLOATS_WITH_PROMPT_MAPS if model.prompt_encoder.has_prompt_maps else FLOATS_WITHOUT
    features = embedding.features.embedding
    bytes_per_prompt = floats * features[0].numel() * torch.finfo(model.dtype).bits // 8
    return max(1, min(wanted, int(memory_mb * 2**20 / bytes_per_prompt)))


def crop_candidates(
    model: Segmenter,
    embedding: ImageEmbedding,
    crop: Crop,
    points_xy: np.ndarray,
    scene: Scene,
    points_at_once: int,
    on_points: Callable[[int], None],
) -> list[Candidate]:
    """All masks of a crop that pass the filters, by point and output; points (N, 2) are image pixels.

    `embedding` is the crop's. `on_points` is told after each batch how many points it held.
    """
    features = embedding.features.to(model.device, model.dtype)
    clicks_xy = embedding.frame.points_to_model(points_xy - np.array(crop.box_xyxy[:2]))
    candidates = []
    for start in range(0, len(points_xy), points_at_once):
        clicks = torch.from_numpy(clicks_xy[start : start + points_at_once]).to(model.device)
        labels = torch.tensor([[PointLabel.FOREGROUND, PointLabel.NOT_A_POINT]], device=model.device)
        prompts = PromptBatch(torch.stack([clicks, torch.zeros_like(clicks)], dim=1), labels.expand(len(clicks), 2))
        logits, ious = model.decode(features, prompts, scene.pred_iou_thresh)
        # Outputs 1 to 3 are the ambiguous ones, which a lone point asks for.
        is_promising = ious[:, 1:].float() >= scene.pred_iou_thresh
        chosen = logits[:, 1:][is_promising[is_promising.any(dim=1)]].float().cpu().numpy()
        scores = ious[:, 1:][is_promising].float().tolist()
        rows = is_promising.nonzero()[:, 0].tolist()
        for logits_hw, score, row in zip(chosen, scores, rows, strict=True):
            x, y = points_xy[start + row].tolist()
            candidate = _candidate(logits_hw, score, (x, y), embedding.frame, crop, scene)
            if candidate is not None:
                candidates.append(candidate)
        on_points(len(clicks))
    return candidates


def _candidate(
    logits_hw: np.ndarray,
    predicted_iou: float,
    point_xy: tuple[float, float],
    frame: Frame,
    crop: Crop,
    scene: Scene,
) -> Candidate | None:
    """One output at full size, or None when it does not pass."""
    height = scene.size_hw[0]
    offset = scene.stability_score_offset
    pixels = certain_pixels = possible_pixels = 0
    starts: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    for (x, y), strip in logit_strips(logits_hw, frame, -offset):
        columns = strip > 0
        pixels += int(np.count_nonzero(columns))
        certain_pixels += int(np.count_nonzero(strip > offset))
        possible_pixels += int(np.count_nonzero(strip > -offset))
        x, y = x + crop.box_xyxy[0], y + crop.box_xyxy[1]
        if scene.roi_wh is not None:
            columns &= scene.roi_wh[x : x + columns.shape[0], y : y + columns.shape[1]]
        for runs, found in zip((starts, ends), find_runs(columns, (x, y), height), strict=True):
            runs.append(found)
    if not 0 < pixels < scene.coverage_limit:
        return None
    stability = certain_pixels / possible_pixels
    if stability < scene.stability_score_thresh:
        return None
    first, last = np.concatenate(starts), np.concatenate(ends)
    area = int((last - first).sum())
    if not scene.allows_area(area):
        return None
    box = runs_to_box_xyxy(first, last, height)
    if touches_inner_border(box, crop, scene.size_hw, scene.crop_edge_tolerance):
        return None
    rle = encode_runs(first, last, scene.size_hw)
    return Candidate(rle, box, area, predicted_iou, stability, point_xy, crop)
