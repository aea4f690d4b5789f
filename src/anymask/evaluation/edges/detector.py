"""Edges out of a promptable model, as the paper makes them (7.2 and D.2): no filter, Sobel of probabilities, maximum.

A 16x16 grid of foreground points, three masks each; redundant ones removed by non-maximum suppression of their boxes;
the Sobel gradient of each mask's unthresholded probabilities, zero off the mask's outer boundary; the pixel-wise
maximum over all masks, scaled to [0, 1]; thinned by edge non-maximum suppression.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from anymask.embedding import ImageEmbedding
from anymask.errors import AnymaskError
from anymask.geometry.boundaries import ridges
from anymask.geometry.boxes import box_nms, masks_to_boxes_xyxy
from anymask.geometry.crops import point_grid
from anymask.geometry.resize import logits_to_original
from anymask.model.segmenter import PromptBatch, Segmenter
from anymask.prompts import PointLabel

_POINTS_AT_ONCE = 64  # bounds memory; `decode` makes smaller batches of them
_NEIGHBOURHOOD = np.ones((3, 3), dtype=np.uint8)


@dataclass(frozen=True)
class EdgeSettings:
    """How edges are made; kept beside the predictions.

    points_per_side: of the grid (paper: 16). box_nms_thresh: IoU of boxes above which the mask of lower predicted IoU
    goes (the paper's for automatic masks). smoothing: Gaussian in pixels of the original image that the map of maxima
    gets before it is thinned, 0 for none; thinning: the one by which the direction across an edge is found.
    full_strength: what counts as 1, of the 4 that the Sobel gradient of a step has before it is smoothed; None takes
    each image's own maximum. The paper leaves the last three open. "Measured" on held-out training images with `tiny`,
    best F when pixels within the radius count as matched: on twelve .679 with each image's maximum for 1, .687 with 2
    for all; on three of them .651 without smoothing, .653 at 1, .664 at 2, .663 at 3; boxes at 0.5 to 0.9 .656 to .664;
    gradients weighted by predicted IoU, which the paper does not do, .629 and less.

    Raises AnymaskError for a value that is not allowed.
    """

    points_per_side: int = 16
    box_nms_thresh: float = 0.7
    smoothing: float = 2.0
    thinning: float = 1.5
    full_strength: float | None = 2.0

    def __post_init__(self) -> None:
        allowed = {
            "points_per_side": (self.points_per_side >= 1, "1 or more"),
            "box_nms_thresh": (0 <= self.box_nms_thresh <= 1, "0 to 1"),
            "smoothing": (self.smoothing >= 0, "0 or more"),
            "thinning": (self.thinning > 0, "above 0"),
            "full_strength": (self.full_strength is None or self.full_strength > 0, "above 0"),
        }
        for name, (is_allowed, words) in allowed.items():
            if not is_allowed:
                raise AnymaskError(f"{name} is {getattr(self, name)}; it must be {words}")


def detect_edges(model: Segmenter, embedding: ImageEmbedding, settings: EdgeSettings) -> np.ndarray:
    """Thin edges of an image, (H, W) float32 in [0, 1]; all zeros where no mask has a boundary."""
    logits = distinct_logits(model, embedding, settings)
    return thin_edges(edge_strength(logits, embedding), settings)


@torch.inference_mode()
def distinct_logits(model: Segmenter, embedding: ImageEmbedding, settings: EdgeSettings) -> np.ndarray:
    """The logits (K, h, w) float32 over the model's padded frame of the masks that non-maximum suppression leaves."""
    features = model.prepare(embedding.features.to(model.device, model.dtype))
    height, width = embedding.frame.original_hw
    clicks = torch.from_numpy(
        embedding.frame.points_to_model(point_grid(settings.points_per_side) * (width, height))
    ).to(model.device)
    labels = torch.tensor([[PointLabel.FOREGROUND, PointLabel.NOT_A_POINT]], device=model.device)
    all_logits, all_ious = [], []
    for chunk in clicks.split(_POINTS_AT_ONCE):
        prompts = PromptBatch(torch.stack([chunk, torch.zeros_like(chunk)], dim=1), labels.expand(len(chunk), 2))
        logits, ious = model.decode(features, prompts, outputs=slice(1, None))  # the ambiguous ones
        all_logits.append(logits.flatten(0, 1).float().cpu().numpy())
        all_ious.append(ious[:, 1:].flatten().float().cpu().numpy())
    found = np.concatenate(all_logits)
    best_first = np.argsort(-np.concatenate(all_ious), kind="stable")
    # Boxes in cells of the decoder's grid: a cell more or less does not matter for what is redundant (assumed).
    inside = found[best_first] > 0
    best_first = best_first[inside.any(axis=(1, 2))]
    if not len(best_first):
        return found[:0]
    boxes = masks_to_boxes_xyxy(found[best_first] > 0)
    return found[best_first[box_nms(boxes, settings.box_nms_thresh)]]


def edge_strength(logits_khw: np.ndarray, embedding: ImageEmbedding) -> np.ndarray:
    """The maximum over masks of the Sobel gradient of their probabilities on their outer boundary, (H, W) float32.

    The outer boundary are the pixels that touch the mask at a side or corner and do not belong to it.
    """
    strongest = np.zeros(embedding.frame.original_hw, dtype=np.float32)
    for logits_hw in logits_khw:
        full = logits_to_original(logits_hw[None], embedding.frame)[0]
        mask = (full > 0).view(np.uint8)
        # The mask's box and all that its outer boundary's gradients look at.
        x, y, width, height = cv2.boundingRect(mask)
        near = slice(max(y - 2, 0), y + height + 2), slice(max(x - 2, 0), x + width + 2)
        outer = cv2.dilate(mask[near], _NEIGHBOURHOOD) != mask[near]
        probability = 1 / (1 + np.exp(-full[near]))
        gradient = cv2.magnitude(cv2.Sobel(probability, cv2.CV_32F, 1, 0), cv2.Sobel(probability, cv2.CV_32F, 0, 1))
        np.maximum(strongest[near], gradient, out=strongest[near], where=outer)
    return strongest


def thin_edges(strength_hw: np.ndarray, settings: EdgeSettings) -> np.ndarray:
    """A strength map (H, W) scaled to [0, 1] and thinned to its ridges, float32."""
    if settings.smoothing > 0:
        strength_hw = cv2.GaussianBlur(strength_hw, (0, 0), settings.smoothing)
    full = settings.full_strength or float(strength_hw.max())
    if full == 0:
        return np.zeros(strength_hw.shape, dtype=np.float32)
    return np.minimum(ridges(strength_hw / np.float32(full), settings.thinning), 1)
