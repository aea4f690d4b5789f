"""The five pictures in which a rater sees one mask (paper, section E: five views)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from anymask.data.sa1b import write_bytes_atomically
from anymask.geometry.boxes import masks_to_boxes_xyxy
from anymask.render import draw_overlay

# In the order in which a page shows them.
VIEWS = ("image", "overlay", "zoom", "outline", "cutout")
LONGEST_SIDE = 900
_BLUE = np.array([[44, 123, 229]], dtype=np.uint8)
# Ground around the object in the close-ups, as a share of its longer side, and the least side in pixels (assumed).
_MARGIN, _MIN_SIDE = 0.25, 64


def write_views(
    folder: Path,
    image_hwc: np.ndarray,
    mask_hw: np.ndarray,
    points_xy: Sequence[tuple[float, float]],
    labels: Sequence[int],
) -> None:
    """Write VIEW.jpg for each of `VIEWS`: the image with its clicks, the mask over it, and three close-ups.

    The close-ups (mask, outline alone, and the object cut out) show the mask with some ground around it. An
    empty mask shows the ground around the first click.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in draw_views(image_hwc, mask_hw, points_xy, labels).items():
        write_bytes_atomically(folder / f"{name}.jpg", _jpeg(picture))


def draw_views(
    image_hwc: np.ndarray,
    mask_hw: np.ndarray,
    points_xy: Sequence[tuple[float, float]],
    labels: Sequence[int],
) -> dict[str, np.ndarray]:
    """The pictures by the names in `VIEWS`, each (h, w, 3) uint8 with its longest side 900 pixels."""
    whole = (0, 0, image_hwc.shape[1], image_hwc.shape[0])
    image, mask, clicks = _enlarged(image_hwc, mask_hw, points_xy, whole)
    kinds = np.asarray(labels)
    window = _window(mask_hw, points_xy)
    close, close_mask, close_clicks = _enlarged(image_hwc, mask_hw, points_xy, window)
    # Of the close-up's clicks those that lie in it.
    inside = ((close_clicks >= 0) & (close_clicks < close.shape[1::-1])).all(axis=1)
    return {
        "image": draw_overlay(image, [], points_xy=clicks, labels=kinds),
        "overlay": draw_overlay(image, [mask], points_xy=clicks, labels=kinds, colours=_BLUE),
        "zoom": draw_overlay(
            close, [close_mask], points_xy=close_clicks[inside], labels=kinds[inside], colours=_BLUE, opacity=0.4
        ),
        "outline": draw_overlay(close, [close_mask], colours=_BLUE, opacity=0.0),
        "cutout": np.where(close_mask[..., None], close, _chequered(close.shape[:2])),
    }


def _window(mask_hw: np.ndarray, points_xy: Sequence[tuple[float, float]]) -> tuple[int, int, int, int]:
    """Whole pixels x0, y0, x1, y1 around the mask, within the image."""
    height, width = mask_hw.shape
    x, y = points_xy[0]
    box = masks_to_boxes_xyxy(mask_hw[None])[0] if mask_hw.any() else np.array([x, y, x + 1, y + 1])
    side = max(box[2] - box[0], box[3] - box[1])
    margin = max(_MARGIN * side, (_MIN_SIDE - side) / 2)
    x0, y0 = np.floor(np.maximum(box[:2] - margin, 0)).astype(int)
    x1, y1 = np.ceil(np.minimum(box[2:] + margin, [width, height])).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


def _enlarged(
    image_hwc: np.ndarray,
    mask_hw: np.ndarray,
    points_xy: Sequence[tuple[float, float]],
    window_xyxy: tuple[int, int, int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, mask and clicks of a window with its longest side at 900 pixels; the mask keeps its pixels' edges."""
    x0, y0, x1, y1 = window_xyxy
    scale = LONGEST_SIDE / max(x1 - x0, y1 - y0)
    size_wh = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(image_hwc[y0:y1, x0:x1], size_wh, interpolation=smooth)
    mask = cv2.resize(mask_hw[y0:y1, x0:x1].astype(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST)
    clicks = (np.asarray(points_xy, dtype=np.float64) + 0.5 - (x0, y0)) * scale
    return image, mask.astype(bool), clicks


def _chequered(size_hw: tuple[int, ...]) -> np.ndarray:
    """Light squares, the usual sign for nothing there."""
    rows, columns = np.indices(size_hw[:2]) // 16
    return np.where(((rows + columns) % 2)[..., None], 232, 250).astype(np.uint8).repeat(3, axis=2)


def _jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()
