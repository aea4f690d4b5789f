"""Masks as people hand them out with data sets: semantic label maps, and folders with one picture for each instance.

Neither is a format that this package writes; both become the same masks as every other reader's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from anymask.data.annotated import AnnotatedImage, Problems
from anymask.data.images import list_images
from anymask.errors import DataError
from anymask.geometry.rle import encode_rle
from anymask.records import MaskRecord

# "Nothing here" and "do not judge" in most semantic data sets (Pascal VOC's and Cityscapes' convention).
IGNORED_LABELS = (0, 255)


def read_semantic(
    path: str | Path,
    images_dir: str | Path | None = None,
    problems: Problems | None = None,
    ignored: Sequence[int] = IGNORED_LABELS,
) -> Iterator[AnnotatedImage]:
    """The images of a folder of label maps NAME.png, sorted; every connected region of a class is a mask.

    Pixels that touch at a side or a corner belong together. Each record's `category` is its label's number; labels in
    `ignored` are no objects. A map may have more in its name than its picture (NAME_L.png); pictures are looked for in
    `images_dir`, else in `images` beside the folder. Raises DataError, naming the file, for what is broken, or
    collects it in `problems`.
    """
    problems = problems or Problems()
    folder = Path(path)
    pictures = _pictures(images_dir or folder.parent / "images")
    for file in _png_files(folder):
        image = None
        with problems.at(file):
            labels = _read_labels(file)
            records: list[MaskRecord] = []
            for label in np.unique(labels):
                if label not in ignored:
                    records += _components(labels == label, str(label), len(records))
            image = _annotated(file.stem, (labels.shape[0], labels.shape[1]), records, pictures)
        if image is not None:
            yield image


def read_instance_folders(
    path: str | Path, images_dir: str | Path | None = None, problems: Problems | None = None
) -> Iterator[AnnotatedImage]:
    """The images of a folder of folders NAME, sorted, each with one picture for each mask: not black is the mask.

    Masks lie in NAME or in NAME/masks; pictures are looked for in NAME/images (as DSB2018 has them), in `images_dir`,
    and in `images` beside the folder. Raises DataError, naming the file, for what is broken, or collects it in
    `problems`.
    """
    problems = problems or Problems()
    folder = Path(path)
    names = sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name != "images")
    if not names:
        raise DataError(f"{folder}: has no folders; allowed: one folder of masks for each image")
    outside = _pictures(images_dir or (folder / "images" if (folder / "images").is_dir() else folder.parent / "images"))
    for place in names:
        image = None
        with problems.at(place):
            masks_dir = place / "masks" if (place / "masks").is_dir() else place
            masks = [_read_labels(file) > 0 for file in _png_files(masks_dir)]
            if len({mask.shape for mask in masks}) != 1:
                raise DataError(f"has masks of the sizes {sorted({mask.shape for mask in masks})}; allowed: one size")
            records = [MaskRecord.from_mask(number, mask) for number, mask in enumerate(masks, start=1)]
            own = _pictures(place / "images")
            image = _annotated(place.name, (masks[0].shape[0], masks[0].shape[1]), records, own or outside)
        if image is not None:
            yield image


def _components(mask_hw: np.ndarray, category: str, before: int) -> list[MaskRecord]:
    count, regions = cv2.connectedComponents(mask_hw.view(np.uint8), connectivity=8)
    return [
        MaskRecord.from_rle(before + number, encode_rle(regions == number), category=category)
        for number in range(1, count)
    ]


def _annotated(
    stem: str, size_hw: tuple[int, int], records: Sequence[MaskRecord], pictures: dict[str, Path]
) -> AnnotatedImage:
    named = [name for name in pictures if stem == name or stem.startswith(f"{name}_")]
    picture = pictures[max(named, key=len)] if named else None
    return AnnotatedImage(picture.name if picture else f"{stem}.png", size_hw, tuple(records), picture, stem)


def _pictures(folder: str | Path) -> dict[str, Path]:
    return {file.stem: file for file in list_images(folder)} if Path(folder).is_dir() else {}


def _png_files(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.glob("*.png") if not file.name.startswith("."))
    if not found:
        raise DataError(f"{folder}: has no PNG files; allowed: a folder of label maps or masks")
    return found


def _read_labels(path: Path) -> np.ndarray:
    """One whole number a pixel (H, W); of a colour picture (some sets save masks so) the brightest channel."""
    try:
        with Image.open(path) as picture:
            has_alpha = picture.mode in ("RGBA", "LA")
            pixels = np.array(picture)
    except Exception as error:  # decoders of broken files raise nearly anything
        raise DataError(f"{path}: cannot be decoded as an image ({error})") from error
    if pixels.ndim == 3:
        pixels = pixels[..., : pixels.shape[2] - has_alpha].max(axis=2)
    if pixels.dtype.kind not in "bui":
        raise DataError(f"{path}: holds {pixels.dtype}; allowed: one whole number a pixel")
    return pixels
