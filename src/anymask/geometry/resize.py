"""Between an image's own pixels and the frame a model sees: one scale, padding on the right and below.

A `Frame` knows both sizes and moves points and boxes into the model's frame; two functions below move masks
in and mask logits back out. The same few numbers are needed wherever an image or a prompt meets a model, so
they live in one frozen record.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """How an image of `original_hw` pixels lies in a model's input.

    The image is resized to `resized_hw` (longest side first, paper A) and padded with zeros on the right and
    below to `padded_hw`. Coordinates in the original are pixels, x to the right and y down.
    """

    original_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    padded_hw: tuple[int, int]

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Model pixels per original pixel, along x and along y (they differ by rounding alone)."""
        return self.resized_hw[1] / self.original_hw[1], self.resized_hw[0] / self.original_hw[0]

    def points_to_model(self, points_xy: np.ndarray) -> np.ndarray:
        """Original pixels (..., 2) to model pixels (..., 2), float32."""
        return (np.asarray(points_xy, dtype=np.float64) * self.scale_xy).astype(np.float32)


def longest_side_size(size_hw: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """The size whose longest side is `longest_side` at the aspect ratio of `size_hw`, at least 1x1.

    Rounds half up, as the reference does.
    """
    height, width = size_hw
    scale = longest_side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def fit_frame(size_hw: tuple[int, int], longest_side: int, pad_multiple: int | None) -> Frame:
    """The frame of an image in a model that takes `longest_side` pixels.

    `pad_multiple=None` pads to a square (the paper's ViT); a number pads each side up to a multiple of it,
    which is all that a convolutional encoder needs.
    """
    resized_hw = longest_side_size(size_hw, longest_side)
    if pad_multiple is None:
        return Frame(size_hw, resized_hw, (longest_side, longest_side))
    padded_hw = tuple(-(-side // pad_multiple) * pad_multiple for side in resized_hw)
    return Frame(size_hw, resized_hw, (padded_hw[0], padded_hw[1]))


def resize_image(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """An HxWxC or HxW uint8 image at another size: bilinear, over a wider area where it shrinks.

    Pillow's filter, which the reference uses, as torch has it: a quarter of the time, and one number in 500 differs by
    one level ("measured"). Its width is what keeps a 20,000 pixel wide image from turning into aliased noise.
    """
    if image.shape[:2] == tuple(size_hw):
        return image
    import torch

    image_hwc = np.require(image.reshape(*image.shape[:2], -1), requirements=["C", "W"])  # torch wants it writable
    image_chw = torch.from_numpy(image_hwc).permute(2, 0, 1)
    resized = torch.nn.functional.interpolate(image_chw[None], tuple(size_hw), mode="bilinear", antialias=True)[0]
    return resized.permute(1, 2, 0).contiguous().numpy().reshape(*size_hw, *image.shape[2:])


@lru_cache(maxsize=16)
def interpolation_matrix(output_size: int, input_size: int, input_extent: float) -> np.ndarray:
    """Bilinear interpolation along one axis as a matrix (output_size, input_size), float32.

    Output pixel i looks at (i + 0.5) * input_extent / output_size - 0.5: the first `input_extent` cells of
    the input (a fraction is fine) are stretched over the whole output, pixel centres on pixel centres. Two
    such matrices crop the padding away and upsample in one go, which is faster than doing either alone.
    """
    lower, fraction = neighbours(output_size, input_size, input_extent)
    upper = np.minimum(lower + 1, input_size - 1)
    matrix = np.zeros((output_size, input_size), dtype=np.float32)
    rows = np.arange(output_size)
    np.add.at(matrix, (rows, lower), 1 - fraction)
    np.add.at(matrix, (rows, upper), fraction)
    return matrix


@lru_cache(maxsize=16)
def neighbours(output_size: int, input_size: int, input_extent: float) -> tuple[np.ndarray, np.ndarray]:
    """For each output pixel of `interpolation_matrix` its lower input cell (rising) and the share of the next one."""
    position = (np.arange(output_size) + 0.5) * (input_extent / output_size) - 0.5
    position = np.clip(position, 0, input_size - 1)
    lower = np.minimum(position.astype(np.int64), max(input_size - 2, 0))
    fraction = (position - lower).astype(np.float32)
    for shared in (lower, fraction):
        shared.setflags(write=False)
    return lower, fraction


def axis_of(frame: Frame, cells: int, axis: int) -> tuple[int, int, float]:
    """The arguments of `interpolation_matrix` and `neighbours` along an axis of `cells` over the padded frame."""
    return frame.original_hw[axis], cells, frame.resized_hw[axis] * cells / frame.padded_hw[axis]


def logits_to_original(logits_khw: np.ndarray, frame: Frame) -> np.ndarray:
    """Mask logits over the padded model frame (K, h, w) at the original size (K, H, W), float32."""
    import torch  # its threads are warm from the decoder; NumPy's own would fight with them ("measured": 14 to 29 ms)

    rows, columns = (
        torch.from_numpy(interpolation_matrix(*axis_of(frame, logits_khw.shape[axis + 1], axis))) for axis in (0, 1)
    )
    logits = torch.from_numpy(np.ascontiguousarray(logits_khw, dtype=np.float32))
    return (rows @ (logits @ columns.T)).numpy()


def mask_at_original(logits_hw: np.ndarray, frame: Frame, pixels_at_once: int = 1 << 18) -> np.ndarray:
    """One mask of the original size (H, W), bool: where `logits_to_original` of its logits (h, w) is above 0.

    Rows are interpolated a few at a time: full-size logits would take longer to get memory for than to compute
    ("measured": 1200x1800 in 1.2 instead of 3.7 ms). A pixel is a mean of its four cells, so only the box of pixels
    that have a cell above 0 is looked at.
    """
    import torch

    logits_hw = np.ascontiguousarray(logits_hw, dtype=np.float32)
    spans = _spans_above(logits_hw, frame, 0)
    if spans is None:
        return np.zeros(frame.original_hw, dtype=bool)
    (rows, down), (columns, across) = (
        map(torch.from_numpy, (lower[span].copy(), fraction[span, None].copy())) for span, lower, fraction in spans
    )
    row_span, column_span = spans[0][0], spans[1][0]
    mask = torch.empty(frame.original_hw, dtype=torch.bool)
    for outside in (mask[: row_span.start], mask[row_span.stop :], mask[row_span, : column_span.start]):
        outside.zero_()
    mask[row_span, column_span.stop :].zero_()
    tall = _between(torch.from_numpy(cv2.transpose(logits_hw)), columns, across)
    wide = torch.from_numpy(cv2.transpose(tall.numpy()))  # four times as quick as torch's own ("measured")
    step = max(1, pixels_at_once // wide.shape[1])
    for start in range(0, len(rows), step):
        strip = slice(start, start + step)
        place = slice(row_span.start + start, min(row_span.start + start + step, row_span.stop))
        torch.gt(_between(wide, rows[strip], down[strip]), 0, out=mask[place, column_span])
    return mask.numpy()


def _spans_above(
    logits_hw: np.ndarray, frame: Frame, above: float
) -> list[tuple[slice, np.ndarray, np.ndarray]] | None:
    """Along y and x the original's pixels that have a cell above a level, with `neighbours` of the axis.

    None where there are no such pixels.
    """
    is_above = logits_hw > above
    spans = []
    for axis in (0, 1):
        cells = np.flatnonzero(is_above.any(axis=1 - axis))
        if cells.size == 0:
            return None
        lower, fraction = neighbours(*axis_of(frame, logits_hw.shape[axis], axis))
        span = slice(*np.searchsorted(lower, (cells[0] - 1, cells[-1] + 1)).tolist())
        if span.start == span.stop:
            return None
        spans.append((span, lower, fraction))
    return spans


def _between(values: Tensor, lower: Tensor, fraction: Tensor) -> Tensor:
    """Rows of values (n, m) at `lower` (k,) and a share `fraction` (k, 1) of the way to the next: (k, m)."""
    upper = (lower + 1).clamp(max=len(values) - 1)
    return values.index_select(0, lower).lerp_(values.index_select(0, upper), fraction)


def mask_to_model(mask_hw: np.ndarray, frame: Frame, size_hw: tuple[int, int]) -> np.ndarray:
    """The share of each cell of a `size_hw` grid over the padded frame that a mask of the original covers.

    mask_hw is (H, W), boolean or a probability map; the answer is float32, zero in the padding. It takes the
    image's own way, resized and then padded, so that mask and image lie on each other to the sub-pixel.
    """
    padded = np.zeros(frame.padded_hw, dtype=np.float32)
    padded[: frame.resized_hw[0], : frame.resized_hw[1]] = _resize_shares(
        np.asarray(mask_hw, dtype=np.float32), frame.resized_hw
    )
    return _resize_shares(padded, size_hw)


def _resize_shares(shares_hw: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Shares (H, W) float32 at another size: averaged along a side that shrinks, bilinear along one that grows."""
    shrunk_hw = min(shares_hw.shape[0], size_hw[0]), min(shares_hw.shape[1], size_hw[1])
    if shrunk_hw != shares_hw.shape:
        shares_hw = cv2.resize(shares_hw, shrunk_hw[::-1], interpolation=cv2.INTER_AREA)
    if shrunk_hw != tuple(size_hw):
        shares_hw = cv2.resize(shares_hw, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_LINEAR)
    return shares_hw
