"""What needs no learned weights, judged like a model: a score below this one has learned nothing.

Felzenszwalb and Huttenlocher's graph segmentation divides the image at three scales. A click answers with the
regions under it, the middle scale's first, so its "oracle" is the best of three scales; a box answers with
itself, filled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from anymask.errors import AnymaskError, PromptError
from anymask.prompts import Prompt

# Fine, middle, coarse. Measured on about a dozen images of each of seven sets of photographs and micrographs,
# against scales from 50 to 1500: as a single answer 300 is best or near it on most, and no other three scales
# tried have a better oracle on all.
SCALES = (100.0, 300.0, 900.0)
MIN_REGION_PIXELS = 100  # measured on the same sets: a little better than 20 where the image is textured
LONGEST_SIDE = 512
SIGMA = 0.8
# Which scale's answer is trusted most: the middle, then the coarse, then the fine.
_ORDER = (1, 2, 0)


@dataclass(frozen=True)
class RegionAnswer:
    """Masks of one prompt, best first, made when asked for."""

    scores: np.ndarray
    make_masks: Callable[[], np.ndarray] = field(repr=False)

    @property
    def masks(self) -> np.ndarray:
        """(K, H, W) bool."""
        return self.make_masks()

    @property
    def logits(self) -> np.ndarray:
        """(K, h, w) float32, about 256 on the longest side: 1 inside, -1 outside."""
        masks = self.masks
        step = -(-max(masks.shape[1:]) // 256)
        return np.where(masks[:, ::step, ::step], 1, -1).astype(np.float32)


class RegionBaseline:
    """Regions under clicks, filled boxes; fits `Segmentable`. Raises AnymaskError without scikit-image."""

    def __init__(self, scales: tuple[float, float, float] = SCALES) -> None:
        _felzenszwalb()
        self.scales = scales
        self._label_maps: list[np.ndarray] = []

    def describe(self) -> dict[str, object]:
        """What the predictions depend on, as JSON values."""
        return {
            "name": "baseline",
            "scales": list(self.scales),
            "min_region_pixels": MIN_REGION_PIXELS,
            "longest_side": LONGEST_SIDE,
            "sigma": SIGMA,
        }

    def set_image(self, image: np.ndarray) -> None:
        """Divide an image, HxWx3 uint8 RGB, at the three scales, with its longest side at most 512 pixels."""
        segment = _felzenszwalb()
        height, width = image.shape[:2]
        ratio = min(1.0, LONGEST_SIDE / max(height, width))
        small_wh = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        small = cv2.resize(image, small_wh, interpolation=cv2.INTER_AREA) if ratio < 1 else image
        self._label_maps = []
        for scale in self.scales:
            labels = segment(small, scale=scale, sigma=SIGMA, min_size=MIN_REGION_PIXELS)
            # OpenCV resizes floats, not integers of this size; below 2**24 they are exact.
            full = cv2.resize(labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
            self._label_maps.append(full.astype(np.int32))

    def predict_batch(self, prompts: Sequence[Prompt]) -> list[RegionAnswer]:
        """Three masks for clicks (one with multimask=False, or by default for several clicks), one for a box.

        Several clicks take the regions under the foreground clicks; a region with clicks of both kinds goes,
        pixel by pixel, to the nearest click in it. Mask prompts are not used. Raises PromptError before any
        image is set and for a prompt with neither points nor a box.
        """
        if not self._label_maps:
            raise PromptError("no image is set; call set_image first")
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: Prompt) -> RegionAnswer:
        label_maps = [self._label_maps[scale] for scale in _ORDER]
        if prompt.box is not None:
            box_xyxy = np.asarray(prompt.box, dtype=np.float64)
            return RegionAnswer(np.ones(1, np.float32), lambda: filled_box(box_xyxy, label_maps[0].shape)[None])
        if prompt.points is None:
            raise PromptError("the prompt has neither points nor a box; the baseline needs one of them")
        points_xy = np.asarray(prompt.points, dtype=np.float64)
        labels = np.ones(len(points_xy)) if prompt.labels is None else np.asarray(prompt.labels)
        is_multimask = len(points_xy) == 1 if prompt.multimask is None else prompt.multimask
        chosen = label_maps if is_multimask else label_maps[:1]
        # There is no confidence to speak of: the numbers only keep the order.
        scores = np.array([1.0, 0.5, 0.25], dtype=np.float32)[: len(chosen)]
        return RegionAnswer(
            scores, lambda: np.stack([clicked_regions(regions, points_xy, labels) for regions in chosen])
        )


def filled_box(box_xyxy: np.ndarray, size_hw: tuple[int, ...]) -> np.ndarray:
    """A mask (H, W) bool of the pixels that a box x0, y0, x1, y1 touches."""
    mask = np.zeros(size_hw, dtype=bool)
    left, top = np.floor(np.maximum(box_xyxy[:2], 0)).astype(int)
    right, bottom = np.ceil(box_xyxy[2:]).astype(int)
    mask[top:bottom, left:right] = True
    return mask


def clicked_regions(regions_hw: np.ndarray, points_xy: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The regions of a label map (H, W) under the foreground clicks (N, 2) x, y, as a mask (H, W) bool.

    A region with clicks of both kinds is divided: each pixel goes to the nearest click in the region.
    """
    columns, rows = points_xy.astype(np.int64).T
    clicked, is_foreground = regions_hw[rows, columns], labels == 1
    mask = np.isin(regions_hw, clicked[is_foreground])
    for region in np.intersect1d(clicked[is_foreground], clicked[~is_foreground]):
        pixel_rows, pixel_columns = np.nonzero(regions_hw == region)
        inside = np.flatnonzero(clicked == region)
        squared = (pixel_columns[:, None] - columns[inside]) ** 2 + (pixel_rows[:, None] - rows[inside]) ** 2
        mask[pixel_rows, pixel_columns] = is_foreground[inside][squared.argmin(axis=1)]
    return mask


def _felzenszwalb() -> Callable[..., np.ndarray]:
    try:
        from skimage.segmentation import felzenszwalb
    except ImportError as error:
        raise AnymaskError("the baseline needs scikit-image: pip install 'anymask[eval]'") from error
    return felzenszwalb
