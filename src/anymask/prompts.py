"""What goes in: one object's prompt, checked against the image before a model sees it.

Coordinates are pixels of the original image, x to the right, then y down; a box is x0, y0, x1, y1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from anymask.errors import PromptError
from anymask.geometry.boxes import clip_boxes_xyxy, masks_to_boxes_xyxy


class PointLabel(IntEnum):
    """What a prompt point means to the networks. Values 0 to 3 and -1 are the reference's."""

    PADDING = -2  # fills up a ragged batch; no token may attend to it
    NOT_A_POINT = -1  # the learned vector that stands where no box is given; attended to, as in the reference
    BACKGROUND = 0
    FOREGROUND = 1
    BOX_TOP_LEFT = 2
    BOX_BOTTOM_RIGHT = 3


@dataclass(frozen=True)
class Prompt:
    """What a user says of one object; any mixture of the fields.

    points: (N, 2) x, y; labels: (N,) 1 foreground, 0 background (all foreground when left out); box: x0, y0,
    x1, y1; mask: a rough mask at the image's size, boolean or 0 to 255; mask_logits: (1, h, w) or (h, w), an
    earlier answer's `logits`; valid_mask: (H, W) bool, the pixels that may belong to the answer; multimask:
    three answers or one (None: three for a lone point or box, one otherwise; paper 3).
    """

    points: ArrayLike | None = None
    labels: ArrayLike | None = None
    box: ArrayLike | None = None
    mask: ArrayLike | None = None
    mask_logits: ArrayLike | None = None
    valid_mask: ArrayLike | None = None
    multimask: bool | None = None


@dataclass(frozen=True)
class CheckedPrompt:
    """A prompt known to be answerable: plain arrays in original pixels, `multimask` decided."""

    points_xy: np.ndarray  # (N, 2) float64, box corners last
    labels: np.ndarray  # (N,) of PointLabel
    mask_hw: np.ndarray | None  # (H, W) bool
    mask_logits_hw: np.ndarray | None  # (4h, 4w) float32
    valid_hw: np.ndarray | None  # (H, W) bool
    is_multimask: bool


def check_prompt(prompt: Prompt, size_hw: tuple[int, int], logits_hw: tuple[int, int]) -> CheckedPrompt:
    """The prompt as checked arrays, for an image of `size_hw` and a model with mask logits of `logits_hw`.

    A box that sticks out is clipped. A rough `mask` without any point or box brings its own tight box, since
    the decoder was trained with one (`mask_logits` alone go without). Raises `PromptError` naming the
    argument, its value and what is allowed.
    """
    valid_hw = checked_mask(prompt.valid_mask, "valid_mask", size_hw)
    points_xy, labels = _checked_points(prompt.points, prompt.labels, size_hw, valid_hw)
    corners_xy = _checked_box(prompt.box, size_hw)
    mask_hw = checked_mask(prompt.mask, "mask", size_hw)
    logits = _checked_logits(prompt.mask_logits, logits_hw)
    if mask_hw is not None and logits is not None:
        raise PromptError("mask and mask_logits are both given; allowed is one rough mask, either of them")
    has_mask = mask_hw is not None or logits is not None
    if not len(points_xy) and corners_xy is None and not has_mask:
        raise PromptError("the prompt is empty; give points=, box=, mask= or mask_logits=")

    is_lone = len(points_xy) + (corners_xy is not None) == 1
    is_multimask = (is_lone and not has_mask) if prompt.multimask is None else bool(prompt.multimask)
    if mask_hw is not None and not len(points_xy) and corners_xy is None:
        corners_xy = masks_to_boxes_xyxy(mask_hw[None])[0].reshape(2, 2)
    if corners_xy is None:
        kinds: Sequence[int] = [PointLabel.NOT_A_POINT]
        corners_xy = np.zeros((1, 2))
    else:
        kinds = [PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT]
    return CheckedPrompt(
        np.concatenate([points_xy, corners_xy]),
        np.concatenate([labels, np.array(kinds, dtype=np.int64)]),
        mask_hw,
        logits,
        valid_hw,
        is_multimask,
    )


def _numbers(value: ArrayLike, name: str, allowed: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PromptError(f"{name}={_short(value)} is not numbers; it must be {allowed}") from error
    if not np.isfinite(array).all():
        raise PromptError(f"{name}={_short(value)} holds NaN or infinity; it must be {allowed}")
    return array


def _checked_points(
    points: ArrayLike | None, labels: ArrayLike | None, size_hw: tuple[int, int], valid_hw: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if points is None:
        if labels is not None:
            raise PromptError(f"labels={_short(labels)} are given without points; give one point per label")
        return np.zeros((0, 2)), np.zeros(0, dtype=np.int64)
    height, width = size_hw
    allowed = f"(N, 2) x, y with 0 <= x < {width} and 0 <= y < {height}"
    points_xy = _numbers(points, "points", allowed)
    if points_xy.ndim != 2 or points_xy.shape[1] != 2 or not len(points_xy):
        raise PromptError(f"points={_short(points)} has shape {points_xy.shape}; it must be {allowed}")
    is_inside = ((points_xy >= 0) & (points_xy < (width, height))).all(axis=1)
    if not is_inside.all():
        outside = points_xy[~is_inside][0].tolist()
        raise PromptError(f"points={_short(points)}: {outside} lies outside the image; allowed is {allowed}")
    kinds = np.ones(len(points_xy)) if labels is None else _numbers(labels, "labels", "0 or 1, one per point")
    if kinds.shape != (len(points_xy),):
        raise PromptError(
            f"labels={_short(labels)} has shape {kinds.shape} for {len(points_xy)} points; give one label per point"
        )
    if not np.isin(kinds, (0, 1)).all():
        raise PromptError(f"labels={_short(labels)} must be 1 (foreground) or 0 (background)")
    if valid_hw is not None:
        x, y = points_xy[kinds == 1].astype(np.int64).T
        if not valid_hw[y, x].all():
            raise PromptError(
                f"points={_short(points)}: a foreground point lies outside valid_mask; "
                "no answer could contain it, move the point or widen valid_mask"
            )
    return points_xy, kinds.astype(np.int64)


def _checked_box(box: ArrayLike | None, size_hw: tuple[int, int]) -> np.ndarray | None:
    """The two corners (2, 2) of a box clipped to the image."""
    if box is None:
        return None
    height, width = size_hw
    allowed = f"x0, y0, x1, y1 with x0 < x1 and y0 < y1, overlapping the image (0, 0, {width}, {height})"
    box_xyxy = _numbers(box, "box", allowed)
    if box_xyxy.shape != (4,):
        raise PromptError(f"box={_short(box)} has shape {box_xyxy.shape}; it must be {allowed}")
    if box_xyxy[0] >= box_xyxy[2] or box_xyxy[1] >= box_xyxy[3]:
        raise PromptError(f"box={_short(box)} has no area; it must be {allowed}")
    clipped = clip_boxes_xyxy(box_xyxy[None], size_hw)[0]
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise PromptError(f"box={_short(box)} lies outside the image; it must be {allowed}")
    return clipped.reshape(2, 2)


def checked_mask(mask: ArrayLike | None, name: str, size_hw: tuple[int, int]) -> np.ndarray | None:
    """An (H, W) bool mask with at least one pixel; 0 to 255 masks are cut at one half."""
    if mask is None:
        return None
    allowed = f"a mask of the image's size {size_hw}, boolean or 0 to 255, with at least one pixel"
    is_bool = isinstance(mask, np.ndarray) and mask.dtype == np.bool_
    array = np.asarray(mask) if is_bool else _numbers(mask, name, allowed)
    if array.shape != tuple(size_hw):
        raise PromptError(f"{name} has shape {array.shape}; it must be {allowed}")
    if not is_bool:
        low, high = array.min(), array.max()
        if low < 0 or high > 255:
            raise PromptError(f"{name} has values {low:g} to {high:g}; it must be {allowed}")
        array = array > (127.5 if high > 1 else 0.5)
    if not array.any():
        raise PromptError(f"{name} is empty; it must be {allowed}")
    return array


def _checked_logits(logits: ArrayLike | None, logits_hw: tuple[int, int]) -> np.ndarray | None:
    if logits is None:
        return None
    allowed = f"one mask's logits of shape {logits_hw} or {(1, *logits_hw)} from an earlier answer"
    array = _numbers(logits, "mask_logits", allowed)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.shape != tuple(logits_hw):
        raise PromptError(f"mask_logits has shape {np.shape(logits)}; it must be {allowed}")
    return array.astype(np.float32)


def _short(value: Any) -> str:
    text = repr(value.tolist() if isinstance(value, np.ndarray) else value)
    return text if len(text) <= 80 else text[:77] + "..."
