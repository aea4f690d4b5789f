"""Losses on mask logits and predicted IoU (paper 3 and A).

Legend: B masks, M outputs, h w logit grid. Targets are soft: the share of each grid cell that a mask covers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """How much each part counts. The paper's: focal 20, dice 1, IoU 1 (3, A); the others are off there.

    `iou` counts the squared error of predicted IoU; `iou_absolute` the absolute one, which settles on the median of
    what is likely instead of its mean. `teacher` counts where the run has one.
    """

    focal: float = 20.0
    dice: float = 1.0
    cross_entropy: float = 0.0
    balanced_cross_entropy: float = 0.0
    iou: float = 1.0
    iou_absolute: float = 0.0
    contrastive: float = 0.0
    teacher: float = 1.0


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Mean over the grid of the sigmoid focal loss: (..., h, w) -> (...). alpha, gamma as Lin et al. 2017."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    miss = probability + target - 2 * probability * target  # 1 - p of the true class
    weight = alpha * target + (1 - alpha) * (1 - target)
    return (weight * miss**gamma * cross_entropy).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice with one pixel of smoothing: (..., h, w) -> (...)."""
    probability = logits.sigmoid()
    overlap = (probability * target).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1))
    return 1 - (2 * overlap + 1) / (total + 1)


def cross_entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Plain binary cross-entropy, mean over the grid: (..., h, w) -> (...)."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(-2, -1))


def balanced_cross_entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Half the mean over the foreground plus half the mean over the background: (..., h, w) -> (...).

    Leaves the plateau that predicts nothing at once where focal loss stays on it ("measured", from scratch).
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    sums = torch.stack([(cross_entropy * w).sum(dim=(-2, -1)) for w in (target, 1 - target)])
    counts = torch.stack([w.expand_as(logits).sum(dim=(-2, -1)) for w in (target, 1 - target)])
    return (sums / counts.clamp(min=1)).mean(dim=0)


MASK_LOSSES = {
    "focal": focal_loss,
    "dice": dice_loss,
    "cross_entropy": cross_entropy_loss,
    "balanced_cross_entropy": balanced_cross_entropy_loss,
}


def mask_losses(logits: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    """Weighted sum of the mask losses per output: logits (B, M, h, w), target (B, h, w) -> (B, M)."""
    logits, target = logits.float(), target[:, None].float().expand_as(logits)
    total = logits.new_zeros(logits.shape[:2])
    for name, loss in MASK_LOSSES.items():
        weight = getattr(weights, name)
        if weight:
            total = total + weight * loss(logits, target)
    return total


def contrastive_loss(
    embedding: Tensor, masks: Tensor, image_index: Tensor, halves: Tensor, temperature: float = 0.1
) -> Tensor:
    """How badly the two halves of an object find each other among the halves of all objects (InfoNCE).

    embedding (I, C, h, w); masks (B, H, W) bool; image_index (B,); halves (B, h, w) bool, random: which cells belong
    to an object's first half. Features are pooled over each half and compared by cosine. Other masks that share most
    of an object's cells are left out of its comparison, since they are right answers too. temperature "assumed".
    """
    height, width = embedding.shape[-2:]
    share = F.adaptive_avg_pool2d(masks.float(), (height, width))
    own = embedding.float()[image_index]
    first, second = (
        F.normalize((own * (share * half)[:, None]).sum(dim=(-2, -1)), dim=1) for half in (halves, ~halves)
    )
    similarity = first @ second.T / temperature
    flat = share.flatten(1)
    overlap = flat @ flat.T / flat.sum(dim=1).clamp(min=1e-6)[:, None]
    is_same = (overlap > 0.5) & (image_index[:, None] == image_index)
    is_same.fill_diagonal_(False)
    wanted = torch.arange(len(masks), device=masks.device)
    return F.cross_entropy(similarity.masked_fill(is_same, -torch.inf), wanted)


def lowest_elsewhere(losses: Tensor) -> Tensor:
    """For each output the lowest loss among the others, or its own where there is no other: (P, M) -> (P, M)."""
    count = losses.shape[1]
    if count == 1:
        return losses
    own = torch.eye(count, dtype=torch.bool, device=losses.device)
    return losses[:, None].expand(-1, count, -1).masked_fill(own, torch.inf).min(dim=2).values


@torch.no_grad()
def true_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of logits cut at zero with a soft target cut at one half: (B, M, h, w), (B, h, w) -> (B, M)."""
    predicted = logits > 0
    truth = (target >= 0.5)[:, None]
    union = (predicted | truth).sum(dim=(-2, -1))
    return (predicted & truth).sum(dim=(-2, -1)) / union.clamp(min=1)


def segmentation_loss(
    logits: Tensor,
    predicted_iou: Tensor,
    target: Tensor,
    weights: LossWeights,
    also_right: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Lowest mask loss of each mask's outputs plus the IoU error of all outputs (paper A).

    logits (B, M, h, w), predicted_iou (B, M), target (B, h, w). `also_right`: P rows of prompts and for each the target
    (P, h, w) of another mask that is a right answer to it too (not in the paper). One output then learns a prompt's own
    mask and the rest its other masks, each from the nearest and together as much as its own: whichever output makes
    all of this cheapest. Returns the mean loss and true IoU (B, M).
    """
    losses = mask_losses(logits, target, weights)
    lowest = losses.min(dim=1).values
    if also_right is not None and len(also_right[0]):
        prompts, other_targets = also_right
        further = lowest_elsewhere(mask_losses(logits[prompts], other_targets, weights))
        counts = torch.zeros_like(lowest).index_add(0, prompts, torch.ones_like(further[:, 0]))
        means = torch.zeros_like(losses).index_add(0, prompts, further) / counts.clamp(min=1)[:, None]
        lowest = torch.where(counts > 0, (losses + means).min(dim=1).values / 2, lowest)
    iou = true_iou(logits, target)
    iou_error = predicted_iou.float() - iou
    iou_loss = weights.iou * iou_error.square().mean() + weights.iou_absolute * iou_error.abs().mean()
    return lowest.mean() + iou_loss, iou
