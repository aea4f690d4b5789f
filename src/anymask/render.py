"""Pictures that a person looks at: masks over an image, an object cut out of it. Arrays in, arrays out."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from anymask.geometry.points import mask_centre_xy

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
    colours: np.ndarray | None = None,
    opacity: float = 0.45,
) -> np.ndarray:
    """An HxWx3 uint8 picture: masks tinted and outlined, prompts drawn over them.

    Where masks overlap the smallest gives the tint, so that parts stay visible and colours are those of
    `colours` (K, 3) uint8, by default `palette_rgb`. `texts` are written in the middle of each mask. Line
    widths follow the size of the image, and no outline runs along the image's border. Masks are asked for one
    at a time: any sequence will do, also one that decodes them on the way.
    """
    line = max(1, round(max(image_hwc.shape[:2]) / 400))
    colours = palette_rgb(len(masks_khw)) if colours is None else colours
    areas = [int(np.count_nonzero(mask)) for mask in masks_khw]
    order = sorted(range(len(areas)), key=lambda index: -areas[index])
    picture = _tint(image_hwc, masks_khw, order, colours, opacity)
    for index in order:
        _outline(picture, masks_khw[index], colours[index], line)
    if texts is not None:
        for index in (index for index in order if areas[index]):
            _write(picture, texts[index], mask_centre_xy(masks_khw[index]), line)
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


def _tint(
    image_hwc: np.ndarray,
    masks_khw: Sequence[np.ndarray] | np.ndarray,
    order: Sequence[int],
    colours: np.ndarray,
    opacity: float,
) -> np.ndarray:
    """The image blended with each pixel's last colour in `order`, as a new array."""
    labels = np.zeros(image_hwc.shape[:2], dtype=np.int32)
    for index in order:
        labels[np.asarray(masks_khw[index], dtype=bool)] = index + 1
    covered = labels > 0
    picture = image_hwc.copy()
    tints = colours[labels[covered] - 1].astype(np.float32) * opacity
    picture[covered] = (picture[covered].astype(np.float32) * (1 - opacity) + tints).astype(np.uint8)
    return picture


def _outline(picture: np.ndarray, mask_hw: np.ndarray, colour: np.ndarray, line: int) -> None:
    mask = np.asarray(mask_hw, dtype=bool)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    window = mask[top : rows[-1] + 2, left : columns[-1] + 2]
    # A mask that meets the image's border goes on beyond it, so that its outline lies outside the picture there.
    margin = line + 1
    window = np.pad(window, margin, mode="edge").view(np.uint8)
    offset_xy = (int(left) - margin, int(top) - margin)
    contours, _ = cv2.findContours(window, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=offset_xy)
    cv2.drawContours(picture, contours, -1, colour.tolist(), line, cv2.LINE_AA)


def _mark(picture: np.ndarray, x: int, y: int, is_foreground: bool, radius: int) -> None:
    """A green disc for a foreground click, a red one for a background click, ringed in white."""
    colour = (46, 204, 64) if is_foreground else (255, 65, 54)
    cv2.circle(picture, (x, y), radius + max(1, radius // 3), (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(picture, (x, y), radius, colour, -1, cv2.LINE_AA)


def _write(picture: np.ndarray, text: str, centre_xy: tuple[float, float], line: int) -> None:
    size, width = 0.3 + 0.1 * line, max(1, line // 2)
    (text_width, text_height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, width)
    x = int(np.clip(centre_xy[0] - text_width / 2, 0, max(0, picture.shape[1] - text_width)))
    y = int(np.clip(centre_xy[1] + text_height / 2, text_height, max(text_height, picture.shape[0] - 2)))
    # A rim of shifted copies: thicker letters are also wider in OpenCV 5, and would run away from the white ones.
    for shift_x, shift_y in ((-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0)):
        colour = (0, 0, 0) if shift_x else (255, 255, 255)
        place = (x + width * shift_x, y + width * shift_y)
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, width, cv2.LINE_AA)
