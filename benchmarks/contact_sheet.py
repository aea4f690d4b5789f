"""The contact sheet of `docs/`: everything in photographs that anybody may show, by the packaged model.

    python benchmarks/contact_sheet.py docs/images/everything.jpg

The photographs lie in scikit-image: in the public domain, CC0 or without known restrictions, says its own list of
sources.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage
import typer
from PIL import Image
from rich.progress import track

import anymask
from anymask.data.images import read_image
from anymask.geometry.resize import resize_image
from anymask.geometry.rle import decode_rles
from anymask.render import draw_overlay

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "coins.png")
TILE_HW = (300, 400)
COLUMNS = 3
GAP = 6


def tile(picture_hwc: np.ndarray) -> np.ndarray:
    """The picture as large as fits, on white."""
    height, width = picture_hwc.shape[:2]
    scale = min(TILE_HW[0] / height, TILE_HW[1] / width)
    small = resize_image(picture_hwc, (round(height * scale), round(width * scale)))
    sheet = np.full((*TILE_HW, 3), 255, dtype=np.uint8)
    top, left = ((whole - part) // 2 for whole, part in zip(TILE_HW, small.shape[:2], strict=True))
    sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def main(out: Path) -> None:
    folder = Path(skimage.__file__).parent / "data"
    generator = anymask.MaskGenerator(anymask.load_model())
    tiles = []
    for name in track(PHOTOGRAPHS, "photographs"):
        image = read_image(folder / name)
        masks = decode_rles([record.segmentation for record in generator.generate(image)], image.shape[:2])
        tiles.append((tile(image), tile(draw_overlay(image, masks))))
    rows = []
    for start in range(0, len(tiles), COLUMNS):
        for kind in zip(*tiles[start : start + COLUMNS], strict=True):
            rows.append(
                np.concatenate([np.pad(one, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255) for one in kind], 1)
            )
    Image.fromarray(np.concatenate(rows)).save(out, quality=88)


if __name__ == "__main__":
    typer.run(main)
