"""Automatic mask generation: a grid of points, everything they hit, the duplicates and the doubtful left out.

The paper's pipeline (4, and B): points on the whole image and on overlapping crops of it; masks filtered by
predicted IoU, stability and coverage; non-maximum suppression of boxes in each crop, then across crops; small
islands and holes removed at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from math import ceil, inf, sqrt

import numpy as np
import torch
from numpy.typing import ArrayLike

from anymask.data.images import ImageSource
from anymask.embedding import ImageEmbedding, encode_images
from anymask.errors import AnymaskError
from anymask.generator.candidates import Candidate, Scene, batch_size, crop_candidates, thread_count
from anymask.geometry.boxes import box_nms
from anymask.geometry.crops import Crop, layered_crops, point_grid
from anymask.geometry.points import mask_centre_xy
from anymask.geometry.regions import remove_small_regions
from anymask.geometry.rle import decode_rle_window
from anymask.geometry.runs import Runs
from anymask.model.segmenter import Segmenter
from anymask.prompts import checked_mask
from anymask.records import MaskRecord, with_parents

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class MaskGenerator:
    """Finds the masks of everything in an image. Settings, with the paper's values (B) unless said otherwise:

    points_per_side: the grid has its square of points, each crop of layer n `crop_n_points_downscale_factor`**n
    times fewer a side. points_per_batch: decoded at once; None for what suits the device. pred_iou_thresh,
    stability_score_thresh: at least; None, as for box_nms_thresh, for the model's own (`Segmenter.generator_defaults`).
    stability_score_offset: stability is the IoU of the logits cut at plus and at minus this. max_coverage: masks of
    this share of the image or more go. box_nms_thresh, crop_nms_thresh: box IoU above which the lesser of two
    masks goes, in a crop and across crops. crop_n_layers: 0 for the whole image alone (the paper's data: 2).
    crop_overlap_ratio: of neighbouring crops, to the image's shorter side. crop_edge_tolerance: pixels to a crop's
    inner border within which a mask counts as cut off (the reference's). point_grids: own points in place of
    `points_per_side`, (N, 2) x, y in [0, 1] for the whole image and each layer of crops. min_mask_region_area:
    smaller islands and holes are removed, in pixels. min_area, max_area: of a mask, in pixels. max_masks: the best
    so many. memory_mb: bound for what decoding needs besides the model and the image. has_hierarchy: fill in each
    record's `parent_id`.
    """

    model: Segmenter
    points_per_side: int = 32
    _: KW_ONLY
    points_per_batch: int | None = None
    pred_iou_thresh: float | None = None
    stability_score_thresh: float | None = None
    stability_score_offset: float = 1.0
    max_coverage: float = 0.95
    box_nms_thresh: float | None = None
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 2
    crop_edge_tolerance: float = 20.0
    point_grids: Sequence[ArrayLike] | None = None
    min_mask_region_area: int = 100
    min_area: float = 0
    max_area: float | None = None
    max_masks: int | None = None
    memory_mb: float = 512
    has_hierarchy: bool = True

    def __post_init__(self) -> None:
        allowed = {
            "1 or more": (1, inf, "points_per_side points_per_batch crop_n_points_downscale_factor max_masks"),
            "0 or more": (0, inf, "stability_score_offset crop_n_layers crop_edge_tolerance min_mask_region_area"),
            "0 to 1": (0, 1, "pred_iou_thresh stability_score_thresh max_coverage box_nms_thresh crop_nms_thresh"),
            "0 or more, and below 1": (0, 1 - 1e-9, "crop_overlap_ratio"),
            "above 0": (1e-9, inf, "memory_mb"),
            "0 or more, min_area no more than max_area": (
                0,
                inf if self.max_area is None else self.max_area,
                "min_area",
            ),
        }
        for words, (low, high, names) in allowed.items():
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not low <= value <= high:
                    raise AnymaskError(f"{name} is {value}; it must be {words}")
        if self.point_grids is not None:
            _check_grids(self.point_grids, self.crop_n_layers)

    @torch.inference_mode()
    def generate(
        self, image: ImageSource | ImageEmbedding, roi: ArrayLike | None = None, progress: Progress | None = None
    ) -> list[MaskRecord]:
        """The masks of an image, the highest predicted IoU first and numbered from 1 in that order.

        `image` is what `read_image` takes, or an embedding of this model (with its picture, if there are
        crops). `roi` (H, W), bool or 0 to 255, is the region of interest: only points in it are asked about,
        and masks are cut to it; where no point of the grid falls into it, its centre is asked about.
        `progress(done, total)` counts points. Equal images and settings give equal answers.

        Raises `ImageError`, `EmbeddingError`, `PromptError` for a region that is empty or of another size, and
        `AnymaskError` for crops of an embedding without its picture.
        """
        if isinstance(image, ImageEmbedding):
            image.require_model(self.model)
            whole = image
        else:
            whole = encode_images(self.model, [image])[0]
        size_hw = whole.frame.original_hw
        roi_hw = checked_mask(roi, "roi", size_hw)
        plan = self._plan(size_hw, roi_hw)
        total = sum(len(points_xy) for _, points_xy in plan)
        done = 0

        def count(points: int) -> None:
            nonlocal done
            done += points
            if progress is not None:
                progress(done, total)

        scene = self._scene(size_hw, roi_hw)
        candidates: list[Candidate] = []
        for crop, points_xy in plan:
            embedding = self._encode(whole, crop)
            threads = thread_count(self.model)
            at_once = batch_size(self.model, embedding, self.points_per_batch, self.memory_mb, threads)
            found = crop_candidates(self.model, embedding, crop, points_xy, scene, at_once, count)
            candidates += _suppress(found, self._box_nms_thresh, lambda candidate: (-candidate.predicted_iou,))
        if self.crop_n_layers:
            candidates = _suppress(candidates, self.crop_nms_thresh, lambda c: (-c.crop.layer, -c.predicted_iou))
        return self._records(self._clean(candidates, scene))

    def _plan(self, size_hw: tuple[int, int], roi_hw: np.ndarray | None) -> list[tuple[Crop, np.ndarray]]:
        """Each crop with its points (N, 2) in image pixels; crops without any are left out."""
        plan = []
        for crop in layered_crops(size_hw, self.crop_n_layers, self.crop_overlap_ratio):
            points_xy = self._grid(crop.layer) * crop.size_hw[::-1] + crop.box_xyxy[:2]
            if roi_hw is not None:
                x, y = points_xy.astype(np.int64).T
                points_xy = points_xy[roi_hw[y, x]]
            if len(points_xy):
                plan.append((crop, points_xy))
        if not plan and roi_hw is not None:
            return [(Crop(0, (0, 0, size_hw[1], size_hw[0])), np.array([mask_centre_xy(roi_hw)]))]
        return plan

    def _grid(self, layer: int) -> np.ndarray:
        if self.point_grids is not None:
            return np.asarray(self.point_grids[layer], dtype=np.float64)
        return point_grid(max(1, self.points_per_side // self.crop_n_points_downscale_factor**layer))

    def _encode(self, whole: ImageEmbedding, crop: Crop) -> ImageEmbedding:
        if crop.layer == 0:
            return whole
        if whole.image_hwc is None:
            raise AnymaskError(
                f"crop_n_layers is {self.crop_n_layers}; it must be 0 for an embedding without a picture"
            )
        x0, y0, x1, y1 = crop.box_xyxy
        return encode_images(self.model, [whole.image_hwc[y0:y1, x0:x1]])[0]

    @property
    def _box_nms_thresh(self) -> float:
        own = self.model.generator_defaults.box_nms_thresh
        return own if self.box_nms_thresh is None else self.box_nms_thresh

    def _scene(self, size_hw: tuple[int, int], roi_hw: np.ndarray | None) -> Scene:
        defaults = self.model.generator_defaults
        iou, stability = self.pred_iou_thresh, self.stability_score_thresh
        return Scene(
            size_hw=size_hw,
            roi=None if roi_hw is None else Runs.of_columns(roi_hw.T, (0, 0), size_hw),
            pred_iou_thresh=defaults.pred_iou_thresh if iou is None else iou,
            stability_score_thresh=defaults.stability_score_thresh if stability is None else stability,
            stability_score_offset=self.stability_score_offset,
            max_coverage=self.max_coverage,
            min_area=self.min_area,
            max_area=inf if self.max_area is None else self.max_area,
            crop_edge_tolerance=self.crop_edge_tolerance,
        )

    def _clean(self, candidates: list[Candidate], scene: Scene) -> list[Candidate]:
        """Without small islands and holes; of masks that this made alike, those stay that it left as they were."""
        if not self.min_mask_region_area:
            return candidates
        cleaned = [_without_small_regions(candidate, scene, self.min_mask_region_area) for candidate in candidates]
        is_changed = {id(new): new is not old for new, old in zip(cleaned, candidates, strict=True)}
        wanted = [candidate for candidate in cleaned if scene.allows_area(candidate.mask.area)]
        threshold = max(self._box_nms_thresh, self.crop_nms_thresh)
        return _suppress(wanted, threshold, lambda candidate: (is_changed[id(candidate)],))

    def _records(self, candidates: list[Candidate]) -> list[MaskRecord]:
        best_first = sorted(candidates, key=lambda candidate: -candidate.predicted_iou)[: self.max_masks]
        records = [
            MaskRecord.from_rle(
                index,
                candidate.mask.rle,
                predicted_iou=candidate.predicted_iou,
                stability_score=candidate.stability_score,
                point_coords=[list(candidate.point_xy)],
                crop_box_xywh=candidate.crop.box_xywh,
            )
            for index, candidate in enumerate(best_first, start=1)
        ]
        return with_parents(records) if self.has_hierarchy else records


def _check_grids(grids: Sequence[ArrayLike], layers: int) -> None:
    if len(grids) != layers + 1:
        raise AnymaskError(f"point_grids has {len(grids)} grids; it must have {layers + 1}, crop_n_layers + 1")
    for layer, grid in enumerate(grids):
        points = np.asarray(grid, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or not ((points >= 0) & (points < 1)).all():
            raise AnymaskError(f"point_grids[{layer}] of shape {points.shape} must be (N, 2) x, y with 0 <= x, y < 1")


def _suppress(
    candidates: list[Candidate], threshold: float, key: Callable[[Candidate], tuple[float, ...]]
) -> list[Candidate]:
    """Box suppression with the least `key` first, equals in their order; those that stay keep their order."""
    order = sorted(range(len(candidates)), key=lambda index: key(candidates[index]))
    kept = box_nms(np.array([candidates[index].mask.box_xyxy for index in order]), threshold)
    return [candidates[index] for index in sorted(order[rank] for rank in kept)]


def _without_small_regions(candidate: Candidate, scene: Scene, min_area: int) -> Candidate:
    """The candidate itself where nothing was small."""
    height, width = scene.size_hw
    x0, y0, x1, y1 = candidate.mask.box_xyxy
    # Wide enough that ground which goes on outside the window has `min_area` pixels inside it and counts as large.
    margin = ceil(max(sqrt(min_area), min_area / height, min_area / width))
    window = (max(x0 - margin, 0), max(y0 - margin, 0), min(x1 + margin, width), min(y1 + margin, height))
    part, has_holes = remove_small_regions(decode_rle_window(candidate.mask.rle, window), min_area, "holes")
    part, has_islands = remove_small_regions(part, min_area, "islands")
    if not (has_holes or has_islands):
        return candidate
    mask = Runs.of_columns(np.ascontiguousarray(part.T), window[:2], scene.size_hw)
    if scene.roi is not None:
        mask = mask.cut_to(scene.roi)
    if mask.rle == candidate.mask.rle:  # the holes were outside the region of interest
        return candidate
    return replace(candidate, mask=mask)
