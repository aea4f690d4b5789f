"""From one crop's points to candidate masks: decoded in batches, filtered, and kept as runs alone.

Nothing here grows with prompts times full resolution: of each batch's three low-resolution masks a point only
those with a high enough predicted IoU are looked at, one after the other, along their outlines at full resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from anymask.embedding import ImageEmbedding
from anymask.geometry.crops import Crop, touches_inner_border
from anymask.geometry.level_sets import count_above, runs_above
from anymask.geometry.resize import Frame
from anymask.geometry.runs import Runs
from anymask.model.image_encoder import ImageFeatures
from anymask.model.segmenter import PromptBatch, Segmenter
from anymask.prompts import PointLabel

# Floats that decoding one prompt needs at its peak, for each cell and channel of the image embedding ("measured":
# tiny, which draws prompts as maps, 13.7; decoders like the paper's 5.8 to 7.5).
FLOATS_WITH_PROMPT_MAPS, FLOATS_WITHOUT = 14, 8
# A big batch suits a GPU ("assumed"); on a CPU bigger ones are hardly quicker ("measured" with tiny, two threads on two
# cores: 2.5 ms a point in batches of 4, 2.25 in 16, 2.17 in 32).
BATCH_ON_CPU, BATCH_ELSEWHERE = 16, 64
# Python itself lets no more of them work at a time ("assumed").
MOST_THREADS = 8


@dataclass(frozen=True)
class Candidate:
    """One mask of the image, with what is needed to choose between it and others.

    mask: at the image's size. point_xy: the click, image pixels.
    """

    mask: Runs
    predicted_iou: float
    stability_score: float
    point_xy: tuple[float, float]
    crop: Crop


@dataclass(frozen=True)
class Scene:
    """The image that candidates belong to, and which of them are wanted.

    roi: the pixels that masks may have, or None. Areas are in pixels, `max_coverage` is a share of the image. The rest:
    see `MaskGenerator`.
    """

    size_hw: tuple[int, int]
    roi: Runs | None
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


def batch_size(
    model: Segmenter, embedding: ImageEmbedding, points_per_batch: int | None, memory_mb: float, threads: int = 1
) -> int:
    """How many points to decode at once: `points_per_batch` (None: what the device likes), as memory allows.

    `threads`: so many batches share the memory.
    """
    wanted = points_per_batch or (BATCH_ON_CPU if model.device.type == "cpu" else BATCH_ELSEWHERE)
    floats = FLOATS_WITH_PROMPT_MAPS if model.prompt_encoder.has_prompt_maps else FLOATS_WITHOUT
    features = embedding.features.embedding
    bytes_per_prompt = floats * features[0].numel() * torch.finfo(model.dtype).bits // 8
    return max(1, min(wanted, int(memory_mb * 2**20 / bytes_per_prompt / threads)))


def thread_count(model: Segmenter) -> int:
    """How many batches to work on side by side: one for each of torch's threads on a CPU, one elsewhere.

    "Measured" with tiny on two cores: two batches with a thread each take 2.25 ms a point, one with two threads 2.5,
    and what follows the decoder has no threads of its own.
    """
    return min(torch.get_num_threads(), MOST_THREADS) if model.device.type == "cpu" else 1


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
    with torch.inference_mode():
        features = model.prepare(embedding.features.to(model.device, model.dtype))

    @torch.inference_mode()
    def look(start: int) -> list[Candidate]:
        batch_xy = points_xy[start : start + points_at_once]
        return _batch_candidates(model, features, embedding.frame, crop, batch_xy, scene)

    candidates = []
    starts = range(0, len(points_xy), points_at_once)
    for start, found in zip(starts, _side_by_side(look, starts, thread_count(model)), strict=True):
        candidates += found
        on_points(min(points_at_once, len(points_xy) - start))
    return candidates


def _side_by_side(
    look: Callable[[int], list[Candidate]], starts: Sequence[int], threads: int
) -> Iterator[list[Candidate]]:
    """The answers in the order of `starts`, worked out by threads that use one core each."""
    if threads == 1 or len(starts) < 2:
        yield from map(look, starts)
        return
    torch_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(look, starts)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)  # threads that others start take over what was set last


def _batch_candidates(
    model: Segmenter, features: ImageFeatures, frame: Frame, crop: Crop, points_xy: np.ndarray, scene: Scene
) -> list[Candidate]:
    clicks = torch.from_numpy(frame.points_to_model(points_xy - np.array(crop.box_xyxy[:2]))).to(model.device)
    labels = torch.tensor([[PointLabel.FOREGROUND, PointLabel.NOT_A_POINT]], device=model.device)
    prompts = PromptBatch(torch.stack([clicks, torch.zeros_like(clicks)], dim=1), labels.expand(len(clicks), 2))
    # Outputs 1 to 3 are the ambiguous ones, which a lone point asks for.
    logits, ious = model.decode(features, prompts, scene.pred_iou_thresh, slice(1, None))
    is_promising = ious[:, 1:].float() >= scene.pred_iou_thresh
    chosen = logits[is_promising[is_promising.any(dim=1)]].float().cpu().numpy()
    scores = ious[:, 1:][is_promising].float().tolist()
    rows = is_promising.nonzero()[:, 0].tolist()
    candidates = []
    for logits_hw, score, row in zip(chosen, scores, rows, strict=True):
        x, y = points_xy[row].tolist()
        candidate = _candidate(logits_hw, score, (x, y), frame, crop, scene)
        if candidate is not None:
            candidates.append(candidate)
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
    pixels, stability = area_and_stability(logits_hw, frame, scene.stability_score_offset)
    if not 0 < pixels < scene.coverage_limit or stability < scene.stability_score_thresh:
        return None
    mask = runs_above(logits_hw, frame).placed(crop.box_xyxy[:2], scene.size_hw)
    if scene.roi is not None:
        mask = mask.cut_to(scene.roi)
    if not scene.allows_area(mask.area):
        return None
    if touches_inner_border(mask.box_xyxy, crop, scene.size_hw, scene.crop_edge_tolerance):
        return None
    return Candidate(mask, predicted_iou, stability, point_xy, crop)


def area_and_stability(logits_hw: np.ndarray, frame: Frame, offset: float) -> tuple[int, float]:
    """A mask's pixels at the original size, and the IoU of its logits cut at plus and at minus the offset."""
    certain, area, possible = count_above(logits_hw, frame, (offset, 0, -offset))
    return area, certain / max(1, possible)
