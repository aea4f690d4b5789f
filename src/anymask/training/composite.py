"""Composite scenes: objects cut out of other images, blobs of their texture or of paint, put onto a training crop.

What is pasted hides what lies under it, so outlines are exact and objects are seen in front of what no photograph
shows them with. All a pure function of the numpy generator, as everything that makes a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

MIN_AREA_SHARE, MAX_AREA_SHARE = 0.004, 0.3  # of the crop; assumed: smaller is a speck, larger hides the scene
MAX_PAINTED_SHARE = 0.5  # of the crop; assumed: one cell or sign may well fill its picture
MIN_VISIBLE_SHARE = 0.3  # assumed: an object hidden more than that is no fair question any more
EDGE_SIGMA = 0.7  # pixels; assumed: about as soft as a lens draws an edge


@dataclass(frozen=True)
class Pasting:
    """How often crops become composites: `share` of them get 1 to `max_objects` new objects, of which `blob_share`
    are random blobs of another image's texture and `painted_share` blobs of paint, instead of annotated objects.
    """

    share: float = 0.0
    max_objects: int = 2
    blob_share: float = 0.25
    painted_share: float = 0.0


class Composite(NamedTuple):
    """The new scene (H, W, 3) uint8, its masks (K, H, W) bool, and where the new object hides the old scene (H, W)."""

    image_hwc: np.ndarray
    masks_khw: np.ndarray
    hidden_hw: np.ndarray


def paste(
    scene_hwc: np.ndarray,
    masks_khw: np.ndarray,
    donor_hwc: np.ndarray,
    object_hw: np.ndarray,
    rng: np.random.Generator,
) -> Composite | None:
    """One object of a donor image at a random place of the scene, all of one size (H, W).

    The pasted object's mask takes the place of those that it hides, or of a random one, and the others lose what it
    hides; None when nothing of the object would be seen.
    """
    area_share = object_hw.mean()
    if not MIN_AREA_SHARE <= area_share <= MAX_AREA_SHARE:
        return None
    shift_xy = _random_shift(object_hw, rng)
    moved_object, moved_donor = (_shifted(array, shift_xy) for array in (object_hw.view(np.uint8), donor_hwc))
    masks = _in_front(masks_khw, moved_object.view(bool)[None], rng)
    if masks is None:
        return None
    return Composite(_blended(scene_hwc, moved_donor, moved_object, EDGE_SIGMA), masks, moved_object.view(bool))


def paint(scene_hwc: np.ndarray, masks_khw: np.ndarray, rng: np.random.Generator) -> Composite | None:
    """A blob of the scene in another colour, half of the time with a core of a third one; else as `paste`.

    Nothing but the colour tells it from what is around it, and core and whole are both right answers to one click: what
    cells, stains and signs look like, which photographs of things do not teach. Half of the scenes fade first, as a
    slide under a microscope or a wall is nearly even.
    """
    whole = draw_blob(scene_hwc.shape[:2], rng, largest=0.4)
    if not MIN_AREA_SHARE <= whole.mean() <= MAX_PAINTED_SHARE:
        return None
    if rng.random() < 0.5:
        scene_hwc = _with_contrast(scene_hwc, rng.uniform(0.1, 0.7), np.zeros(3))
    painted = _repainted(scene_hwc, rng)
    parts = [whole]
    if rng.random() < 0.5:
        depth = cv2.distanceTransform(whole.view(np.uint8), cv2.DIST_L2, 5)
        core = depth > rng.uniform(0.2, 0.6) * depth.max()
        painted = _blended(painted, _repainted(scene_hwc, rng), core.view(np.uint8), rng.uniform(0.5, 2.0))
        parts.append(core)
    masks = _in_front(masks_khw, np.stack(parts)[: len(masks_khw)], rng)
    if masks is None:
        return None
    return Composite(_blended(scene_hwc, painted, whole.view(np.uint8), rng.uniform(0.5, 2.0)), masks, whole)


def _in_front(masks_khw: np.ndarray, new_khw: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The masks behind a new object and its parts; None if nothing of it would be seen.

    `new_khw`: the whole object first. They take the place of the masks that they hide, or else of random ones.
    """
    if new_khw[0].mean() < MIN_AREA_SHARE:
        return None
    remaining = left_of(masks_khw, new_khw[0])
    is_left = np.array([mask.any() for mask in remaining])
    order = rng.permutation(len(masks_khw))
    hidden_first = order[np.argsort(is_left[order], kind="stable")]
    replaced = hidden_first[: max(len(new_khw), (~is_left).sum())]
    remaining[replaced] = new_khw[np.arange(len(replaced)) % len(new_khw)]
    return remaining


def left_of(masks_khw: np.ndarray, hidden_hw: np.ndarray) -> np.ndarray:
    """The masks (K, H, W) without what is hidden; nothing is left of one that is hidden for the most part."""
    remaining = masks_khw & ~hidden_hw
    visible = remaining.sum(axis=(1, 2)) / np.maximum(masks_khw.sum(axis=(1, 2)), 1)
    remaining[visible < MIN_VISIBLE_SHARE] = False
    return remaining


def _blended(under_hwc: np.ndarray, over_hwc: np.ndarray, mask_hw: np.ndarray, edge_sigma: float) -> np.ndarray:
    """`over` where the 0 or 1 mask is, with an edge as soft as a blur of `edge_sigma` pixels makes it."""
    alpha = cv2.GaussianBlur(mask_hw.astype(np.float32), (0, 0), edge_sigma)[..., None]
    return np.rint(under_hwc * (1 - alpha) + over_hwc * alpha).astype(np.uint8)


def _repainted(scene_hwc: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The scene in other colours and with less contrast, which is all of its texture that paint lets through."""
    shift = rng.choice([-1, 1]) * rng.uniform(25, 90) + rng.normal(0, 25, size=3)  # assumed: seen, and often just so
    return _with_contrast(scene_hwc, rng.uniform(0.1, 1.0), shift)


def _with_contrast(image_hwc: np.ndarray, contrast: float, shift: np.ndarray) -> np.ndarray:
    """The image's distance from its mean colour times `contrast`, around the mean moved by `shift` (3,)."""
    mean = image_hwc.mean(axis=(0, 1))
    return np.clip((image_hwc - mean) * contrast + mean + shift, 0, 255).astype(np.uint8)


def draw_blob(size_hw: tuple[int, int], rng: np.random.Generator, largest: float = 0.22) -> np.ndarray:
    """A smooth closed random shape somewhere in the image: (H, W) bool.

    Its mean radius is 0.04 to `largest` of the image's shorter side: 0.5% to 15% of a square, or 50% at 0.4.
    """
    height, width = size_hw
    angles = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    waves = np.arange(2, 7)
    heights = rng.uniform(0.1, 1) * rng.normal(0, 0.35, waves.size) / waves  # some nearly round, some ragged
    radii = 1 + (heights[:, None] * np.cos(waves[:, None] * angles + rng.uniform(0, 2 * np.pi, (waves.size, 1)))).sum(0)
    radius = np.exp(rng.uniform(np.log(0.04), np.log(largest))) * min(height, width)
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    turn = rng.uniform(0, 2 * np.pi)
    outline = np.stack([np.cos(angles) * stretch, np.sin(angles) / stretch]) * np.maximum(radii, 0.2) * radius
    cosine, sine = np.cos(turn), np.sin(turn)
    centre_xy = rng.uniform(0.1, 0.9, 2) * (width, height)
    points_xy = np.array([[cosine, -sine], [sine, cosine]]) @ outline + centre_xy[:, None]
    blob = np.zeros(size_hw, dtype=np.uint8)
    cv2.fillPoly(blob, [np.rint(points_xy.T).astype(np.int32)], 1)
    return blob.view(bool)


def _random_shift(object_hw: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """A shift that leaves the object's centre of mass inside the image."""
    rows, columns = np.nonzero(object_hw)
    height, width = object_hw.shape
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    return round(x - columns.mean()), round(y - rows.mean())


def _shifted(array: np.ndarray, shift_xy: tuple[int, int]) -> np.ndarray:
    """The array moved right and down by `shift_xy`, zero where nothing moves in."""
    height, width = array.shape[:2]
    dx, dy = shift_xy
    moved = np.zeros_like(array)
    moved[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = array[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return moved
