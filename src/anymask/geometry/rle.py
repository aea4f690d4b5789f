"""Masks as COCO run-length codes, there and back, with every code checked before it reaches compiled code.

A code is `{"size": [height, width], "counts": ...}`: lengths of alternating runs of 0 and 1, column by
column, beginning with 0. `counts` is COCO's compressed text (str or bytes) or the plain list of run
lengths. pycocotools encodes. Decoding is numpy's: the compiled decoder trusts its input and writes outside
its buffer when the runs do not add up to the size, and once the runs are read to check that, they are as
good as decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from anymask.errors import DataError
from anymask.geometry.runs import Rle, Runs

# Run lengths and areas are 32-bit numbers in pycocotools.
MAX_MASK_PIXELS = 2**31 - 1
# Seven groups of five bits hold any difference of two run lengths below that.
_MAX_GROUPS_PER_RUN = 7


def encode_rle(mask_hw: np.ndarray) -> Rle:
    """The compressed code of one mask (H, W) of bool or integers, non-zero the mask; `counts` is a str."""
    return encode_rles(np.asarray(mask_hw)[None])[0]


def encode_rles(masks_khw: np.ndarray) -> list[Rle]:
    """The compressed codes of masks (K, H, W) of bool or integers; a list of length K, empty for K = 0.

    Raises DataError for another shape, for floats (logits or probabilities need a threshold first) and for
    masks of no pixels.
    """
    masks = np.asarray(masks_khw)
    if masks.ndim != 3 or masks.dtype.kind not in "bui":
        raise DataError(f"masks_khw is {masks.dtype} of shape {masks.shape}; allowed: (K, H, W) bool or integer")
    if len(masks) == 0:
        return []
    if not 0 < masks[0].size <= MAX_MASK_PIXELS:
        raise DataError(f"masks_khw has shape {masks.shape}; allowed: 1 to {MAX_MASK_PIXELS} pixels each")
    by_column = np.stack([cv2.transpose(mask.view(np.uint8)) for mask in masks != 0])  # six times as quick as NumPy's
    codes = coco_mask.encode(by_column.transpose(2, 1, 0))
    return [{"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")} for code in codes]


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """The mask (H, W) bool of one code. Raises DataError when the code is broken."""
    return decode_rles([rle])[0]


def decode_rles(rles: Sequence[Mapping[str, Any]], size_hw: tuple[int, int] | None = None) -> np.ndarray:
    """The masks (K, H, W) bool, C-contiguous, of codes of one size.

    `size_hw` is the size that they must have; without it the first one's counts, and no codes at all give
    shape (0, 0, 0). Raises DataError when a code is broken or of another size, naming its index.
    """
    if len(rles) == 0:
        return np.zeros((0, *(size_hw or (0, 0))), dtype=bool)
    runs_of_all = []
    for index, rle in enumerate(rles):
        try:
            found_hw = rle_size_hw(rle)
            size_hw = size_hw or found_hw
            if found_hw != tuple(size_hw):
                raise DataError(f"rle size is {list(found_hw)}; allowed here: {list(size_hw)}")
            runs_of_all.append(_runs(rle))
        except DataError as error:
            raise DataError(f"rles[{index}]: {error}") from error
    masks = np.empty((len(rles), *found_hw), dtype=bool)
    for mask, runs in zip(masks, runs_of_all, strict=True):
        by_column = np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(found_hw[::-1])
        cv2.transpose(by_column.view(np.uint8), mask.view(np.uint8))
    return masks


def checked_rle(rle: Mapping[str, Any]) -> Rle:
    """The compressed code of the same mask without empty runs, as this module writes it; the mask is not decoded.

    Raises DataError when the code is broken.
    """
    ends = np.cumsum(_runs(rle))
    lengths = np.diff(ends, prepend=0)[1::2]
    ends = ends[1::2]
    return Runs((ends - lengths)[lengths > 0], ends[lengths > 0], rle_size_hw(rle)).rle


def decode_rle_window(rle: Mapping[str, Any], window_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    """The part (y1 - y0, x1 - x0) bool of a mask inside a window of whole pixels, without decoding the rest.

    Raises DataError when the code is broken or the window is not inside the image.
    """
    height, width = rle_size_hw(rle)
    x0, y0, x1, y1 = window_xyxy
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise DataError(f"window_xyxy is {window_xyxy}; allowed: x0 < x1 and y0 < y1 inside 0, 0, {width}, {height}")
    first, last = x0 * height, x1 * height
    turns = np.clip(np.cumsum(_runs(rle)), first, last)
    runs = np.diff(turns, prepend=first)
    columns = np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(x1 - x0, height)
    return np.ascontiguousarray(columns[:, y0:y1].T)


def rle_size_hw(rle: Mapping[str, Any]) -> tuple[int, int]:
    """The size (height, width) a code declares. Raises DataError unless it is two positive whole numbers."""
    size = rle.get("size") if isinstance(rle, Mapping) else None
    if (
        not isinstance(size, Sequence | np.ndarray)
        or len(size) != 2
        or not all(isinstance(side, int | np.integer) and not isinstance(side, bool) and side > 0 for side in size)
        or int(size[0]) * int(size[1]) > MAX_MASK_PIXELS
    ):
        raise DataError(
            f"rle size is {_short(size)}; allowed: [height, width], positive, up to {MAX_MASK_PIXELS} pixels"
        )
    return int(size[0]), int(size[1])


def rle_area(rle: Mapping[str, Any]) -> int:
    """How many pixels of the mask are set. Raises DataError when the code is broken."""
    return int(_runs(rle)[1::2].sum())


def rle_to_box_xywh(rle: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """The box x, y, width, height in pixels around the mask of a code; zeros for an empty mask.

    Worked out from the runs: pycocotools goes wrong where a run of ones has no length.
    """
    height, _ = rle_size_hw(rle)
    runs = _runs(rle)
    ends = np.cumsum(runs)[1::2]
    lengths = runs[1::2]
    starts, lasts = (ends - lengths)[lengths > 0], ends[lengths > 0] - 1
    if starts.size == 0:
        return 0.0, 0.0, 0.0, 0.0
    left, right = starts[0] // height, lasts[-1] // height
    top, bottom = np.min(starts % height), np.max(lasts % height)
    if np.any(starts // height != lasts // height):  # a run over the foot of a column spans the whole height
        top, bottom = 0, height - 1
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def _runs(rle: Mapping[str, Any]) -> np.ndarray:
    """The run lengths (N,) int64 of a code, checked to be whole, not negative and to add up to the size."""
    height, width = rle_size_hw(rle)
    counts = rle.get("counts")
    if isinstance(counts, str | bytes):
        runs = _decompress(counts)
    elif isinstance(counts, Sequence | np.ndarray):
        runs = _plain_runs(counts)
    else:
        raise DataError(f"rle counts is {_short(counts)}; allowed: compressed text or a list of run lengths")
    if runs.size and (runs.min() < 0 or runs.max() > MAX_MASK_PIXELS):
        raise DataError("rle counts holds a run length that is negative or too large; the code is broken")
    total = int(runs.sum())
    if total != height * width:
        raise DataError(f"rle counts add up to {total}; the size {height}x{width} needs {height * width}")
    return runs


def _plain_runs(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    try:
        runs = np.asarray(counts)
    except (ValueError, OverflowError) as error:
        raise DataError(f"rle counts is {_short(counts)}; allowed: a list of whole numbers") from error
    if runs.ndim != 1 or (runs.size and runs.dtype.kind not in "ui"):
        raise DataError(f"rle counts is {_short(counts)}; allowed: a list of whole numbers")
    if runs.size and int(runs.max()) > MAX_MASK_PIXELS:
        raise DataError(f"rle counts holds {runs.max()}; allowed: run lengths up to {MAX_MASK_PIXELS}")
    return runs.astype(np.int64)


def _decompress(counts: str | bytes) -> np.ndarray:
    """Run lengths of COCO's compressed text, without any loop over characters.

    Each character minus 48 is six bits: five of the number, lowest group first, and 32 for "more follows";
    the last group's 16 is the sign. From the fourth run on a number is the difference to the run two before.
    """
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError as error:
        raise DataError(f"rle counts is {_short(counts)}; allowed: ASCII characters '0' to 'o'") from error
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return codes
    if codes.min() < 0 or codes.max() > 63:
        raise DataError(f"rle counts is {_short(counts)}; allowed: ASCII characters '0' to 'o'")
    last = np.flatnonzero((codes & 32) == 0)
    if last.size == 0 or last[-1] != codes.size - 1:
        raise DataError("rle counts ends in the middle of a number; the text is cut off")
    first = np.concatenate([[0], last[:-1] + 1])
    group_count = last - first + 1
    if group_count.max() > _MAX_GROUPS_PER_RUN:
        raise DataError("rle counts holds a number that is too long; the code is broken")
    shift = 5 * (np.arange(codes.size) - np.repeat(first, group_count))
    runs = np.add.reduceat((codes & 31) << shift, first)
    runs -= np.where(codes[last] & 16, np.int64(1) << (5 * group_count), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
