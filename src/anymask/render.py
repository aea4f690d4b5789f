"""Pictures that a person looks at: masks over an image, and an object cut out of it. Arrays in, arrays out."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

GOLDEN_RATIO = 0.618034


def palette_rgb(count: int) -> np.ndarray:
    """`count` colours (count, 3) uint8, stable in their order and far apart for neighbours in it."""
    hues = [(0.58 + index * GOLDEN_RATIO) % 1 for index in range(count)]
    colours = [colorsys.hsv_to_rgb(hue, 0.75, 1.0) for hue in hues]
    return (np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def draw_overlay(
    image_hwc: np.ndarray,
    masks_khw: Sequence[np.ndarray] | np.ndarray,
    *,
    points_xy: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    box_xyxy: np.ndarray | None = None,
    texts: Sequence[str] | None = None,
    opacity: float = 0.45,
) -> np.ndarray:
    """An HxWx3 uint8 picture: masks tinted and outlined (smaller ones on top), prompts drawn over them.

    `texts` are written at the masks' centres of gravity. Line widths follow the size of the image.
    """
    picture = image_hwc.copy()
    line = max(1, round(max(picture.shape[:2]) / 450))
    order = sorted(range(len(masks_khw)), key=lambda index: -int(np.count_nonzero(masks_khw[index])))
    colours = palette_rgb(len(masks_khw))
    for index in order:
        _tint(picture, np.asarray(masks_khw[index], dtype=bool), colours[index], opacity)
    for index in order:
        colour = colours[index].tolist()
        mask = np.ascontiguousarray(masks_khw[index], dtype=np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, (255, 255, 255), line + 2, cv2.LINE_AA)
        cv2.drawContours(picture, contours, -1, colour, line, cv2.LINE_AA)
        if texts is not None and mask.any():
            _write(picture, texts[index], _centre(mask), line)
    if box_xyxy is not None:
        x0, y0, x1, y1 = (round(float(value)) for value in box_xyxy)
        cv2.rectangle(picture, (x0, y0), (x1, y1), (255, 255, 255), line + 2, cv2.LINE_AA)
        cv2.rectangle(picture, (x0, y0), (x1, y1), (255, 196, 0), line, cv2.LINE_AA)
    if points_xy is not None:
        kinds = np.ones(len(points_xy)) if labels is None else labels
        for (x, y), label in zip(points_xy, kinds, strict=True):
            _mark(picture, round(float(x)), round(float(y)), bool(label), 3 * line + 2)
    return picture


def cut_out(image_hwc: np.ndarray, mask_hw: np.ndarray) -> np.ndarray:
    """The masked object on a transparent ground, cropped to its box: hxwx4 uint8. An empty mask gives 1x1."""
    rows, columns = (np.flatnonzero(mask_hw.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros((1, 1, 4), dtype=np.uint8)
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    alpha = mask_hw[window].astype(np.uint8) * 255
    return np.dstack([image_hwc[window], alpha])


def _tint(picture: np.ndarray, mask: np.ndarray, colour: np.ndarray, opacity: float) -> None:
    blended = picture[mask].astype(np.float32) * (1 - opacity) + colour.astype(np.float32) * opacity
    picture[mask] = blended.astype(np.uint8)


def _mark(picture: np.ndarray, x: int, y: int, is_foreground: bool, radius: int) -> None:
    """A green disc for a foreground click, a red one for a background click, ringed in white."""
    colour = (46, 204, 64) if is_foreground else (255, 65, 54)
    cv2.circle(picture, (x, y), radius + max(1, radius // 3), (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(picture, (x, y), radius, colour, -1, cv2.LINE_AA)


def _centre(mask: np.ndarray) -> tuple[int, int]:
    y, x = np.nonzero(mask)
    return int(x.mean()), int(y.mean())


def _write(picture: np.ndarray, text: str, centre: tuple[int, int], line: int) -> None:
    size = 0.32 * (line + 0.5)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, line)
    x = int(np.clip(centre[0] - width // 2, 0, max(0, picture.shape[1] - width)))
    y = int(np.clip(centre[1] + height // 2, height, picture.shape[0] - 1))
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), line + 2, cv2.LINE_AA)
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), line, cv2.LINE_AA)
