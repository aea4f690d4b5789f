"""The simulated annotator of the training algorithm (paper A, "Training algorithm").

Legend: B masks, H W model pixels. All randomness comes from one `Draws`, so a step can be replayed exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anymask.geometry.points import mask_centre_xy
from anymask.prompts import PointLabel

BOX_NOISE = 0.1  # paper A: standard deviation of a box coordinate's noise, as a share of the side
BOX_NOISE_LIMIT = 20.0  # paper A: pixels at most


class Draws:
    """The random numbers of one step: each mask gets its own, whichever of the processes holds it.

    Every process draws for the masks of all processes and keeps its own rows, which are as many in each: N
    processes make the very clicks that one would make alone.
    """

    def __init__(self, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rank = rank
        self.world_size = world_size

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """(rows, *shape) in [0, 1), float32 on the CPU."""
        return self._own(torch.rand(rows * self.world_size, *shape, generator=self.generator))

    def normal(self, rows: int, *shape: int) -> Tensor:
        """(rows, *shape) of mean 0 and spread 1, float32 on the CPU."""
        return self._own(torch.randn(rows * self.world_size, *shape, generator=self.generator))

    def integer(self, limit: int) -> int:
        """0 to limit - 1, one number for all masks of all processes."""
        return int(torch.randint(limit, (), generator=self.generator))

    def _own(self, values: Tensor) -> Tensor:
        return values.chunk(self.world_size)[self.rank]


@dataclass(frozen=True)
class ClickSchedule:
    """How many rounds a mask gets. Paper A: eleven; two of them bring the last mask's logits, no new prompt.

    One of those two comes at a random place, the other at the end; with one (`mask_only_rounds=1`) it comes
    at a random place, with none every round adds a point.
    """

    rounds: int = 11
    mask_only_rounds: int = 2

    def draw(self, draws: Draws) -> list[bool]:
        """For each round after the first: does it bring a new point?"""
        new_point = [True] * (self.rounds - 1)
        if self.mask_only_rounds >= 2 and new_point:
            new_point[-1] = False
        if self.mask_only_rounds >= 1 and len(new_point) > 1:
            limit = len(new_point) - (self.mask_only_rounds >= 2)
            new_point[draws.integer(limit)] = False
        return new_point


@dataclass(frozen=True)
class Annotator:
    """How the simulated annotator clicks and draws. The defaults are the paper's (A).

    centre_share: of all clicks, how many go to the pixel farthest from the region's boundary instead of anywhere in
    it; people click there, and so does the benchmark (paper D.1). has_steady_hand: the noise of each box is scaled
    by a share of its own, uniform in [0, 1), so that exact boxes are seen too.
    """

    centre_share: float = 0.0
    has_steady_hand: bool = False


PAPER = Annotator()


def sample_clicks(region: Tensor, draws: Draws, annotator: Annotator) -> Tensor:
    """One click in each region, uniform or at its centre: (B, H, W) bool -> (B, 2) float x, y."""
    points = sample_pixels(region, draws)
    if annotator.centre_share:
        at_centre = draws.uniform(region.shape[0]) < annotator.centre_share
        for row in at_centre.nonzero()[:, 0].tolist():
            mask = region[row].cpu().numpy()
            if mask.any():
                points[row] = points.new_tensor(mask_centre_xy(mask))
    return points


def sample_pixels(region: Tensor, draws: Draws) -> Tensor:
    """One uniformly random pixel of each region: (B, H, W) bool -> (B, 2) float x, y.

    A region without a pixel gives some pixel of the image; callers check `any` where that matters.
    """
    batch, _, width = region.shape
    counts = region.flatten(1).to(torch.int32).cumsum(dim=1, dtype=torch.int32)
    draw = draws.uniform(batch, 1).to(region.device)
    rank = (draw * counts[:, -1:]).floor().to(torch.int32) + 1
    index = torch.searchsorted(counts, rank).squeeze(1).clamp(max=counts.shape[1] - 1)
    return torch.stack([index % width, index // width], dim=1).float()


def noisy_boxes(masks: Tensor, draws: Draws, annotator: Annotator = PAPER) -> Tensor:
    """Each mask's box with noise on every coordinate, kept inside the image.

    masks (B, H, W) bool, none empty; returns (B, 2, 2): the top left corner x, y, then the bottom right.
    """
    _, height, width = masks.shape
    edges = []
    for axis, size in ((1, width), (2, height)):
        filled = masks.any(dim=axis)
        first = filled.to(torch.int32).argmax(dim=1)
        last = size - filled.flip(1).to(torch.int32).argmax(dim=1)
        edges.append(torch.stack([first, last], dim=1).float())
    corners = torch.stack(edges, dim=2)  # (B, corner, xy)
    side = (corners[:, 1] - corners[:, 0])[:, None]
    noise = draws.normal(*corners.shape).to(corners.device) * side * BOX_NOISE
    if annotator.has_steady_hand:
        noise = noise * draws.uniform(masks.shape[0], 1, 1).to(corners.device)
    noisy = corners + noise.clamp(-BOX_NOISE_LIMIT, BOX_NOISE_LIMIT)
    limit = corners.new_tensor([width, height])
    return torch.minimum(noisy.clamp(min=0), limit)


def first_prompts(masks: Tensor, draws: Draws, annotator: Annotator = PAPER) -> tuple[Tensor, Tensor]:
    """A foreground point or a noisy box for each mask, with equal chance (paper A).

    masks (B, H, W) bool, none empty. Returns points (B, 2, 2) and labels (B, 2): a point and "not a point",
    or the two corners, so that a batch of both keeps one shape.
    """
    points, labels = (part.unflatten(0, (2, -1)) for part in clicks_and_boxes(masks, draws, annotator))
    is_box = (draws.uniform(masks.shape[0]) < 0.5).to(masks.device)
    return torch.where(is_box[:, None, None], points[1], points[0]), torch.where(is_box[:, None], labels[1], labels[0])


def clicks_and_boxes(masks: Tensor, draws: Draws, annotator: Annotator = PAPER) -> tuple[Tensor, Tensor]:
    """Both of the prompts that `first_prompts` chooses from, all points first: (2B, 2, 2) and (2B, 2)."""
    # Corners lie on pixel edges and the encoder adds half a pixel to everything, as in the reference.
    boxes = noisy_boxes(masks, draws, annotator)
    points = sample_clicks(masks, draws, annotator)
    points = torch.stack([points, torch.zeros_like(points)], dim=1)
    labels = torch.tensor(
        [
            [PointLabel.FOREGROUND, PointLabel.NOT_A_POINT],
            [PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT],
        ],
        device=masks.device,
    )
    return torch.cat([points, boxes]), labels.repeat_interleave(len(masks), dim=0)


def correction_clicks(
    truth: Tensor, predicted: Tensor, draws: Draws, annotator: Annotator = PAPER
) -> tuple[Tensor, Tensor]:
    """A point in each error region: foreground where it missed, background where it was too much.

    truth, predicted (B, H, W) bool. Returns points (B, 1, 2) and labels (B, 1); a mask without any error gets
    a foreground point inside the truth.
    """
    error = truth ^ predicted
    has_error = error.flatten(1).any(dim=1)
    points = sample_clicks(torch.where(has_error[:, None, None], error, truth), draws, annotator)
    x, y = points.long().unbind(1)
    labels = truth[torch.arange(truth.shape[0], device=truth.device), y, x].long()
    return points[:, None], labels[:, None]
