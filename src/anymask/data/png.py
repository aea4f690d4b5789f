"""Masks as pictures: a label map, the same in colours, one PNG for each mask, and an overlay for people.

For an image NAME.jpg: `NAME.labels.png` (16 bits a pixel: 0 for nothing, else the mask's label, counted from
1 in the order of the masks; where masks overlap the smallest wins, see `geometry.hierarchy.label_map`),
`NAME.colour.png` (its palette preview), `NAME.masks/00001.png` and so on (whole masks, black and white), and
`NAME.masks.json` (label by label the id, category, scores and everything else). With the single masks all is
exact; a label map alone holds what is visible of each.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anymask.data.annotated import AnnotatedImage, Problems, number_records, parse_facts, raw_record
from anymask.data.images import IMAGE_SUFFIXES
from anymask.data.sa1b import (
    distinct_stems,
    read_json,
    to_json,
    write_bytes_atomically,
    write_text_atomically,
)
from anymask.errors import DataError
from anymask.geometry.hierarchy import label_map
from anymask.geometry.rle import Rle, encode_rle, rle_size_hw
from anymask.records import MaskRecord
from anymask.render import draw_overlay, palette_rgb

LABELS_SUFFIX = ".labels.png"
COLOUR_SUFFIX = ".colour.png"
MASKS_SUFFIX = ".masks"
TABLE_SUFFIX = ".masks.json"
_OWN_KEYS = ("label", "id", "area", "bbox")
_PALETTE_LABELS = 255


def read_png(
    folder: str | Path, images_dir: str | Path | None = None, problems: Problems | None = None
) -> Iterator[AnnotatedImage]:
    """The images of a folder of label maps, sorted.

    Masks come whole from NAME.masks where that is there, else as far as NAME.labels.png shows them. A label
    map from elsewhere needs no table: each value but 0 is a mask of that id. Pictures are looked for beside,
    or in `images_dir`. Raises DataError, naming the file, for what is broken, or collects it in `problems`.
    """
    problems = problems or Problems()
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; allowed: a folder of NAME{LABELS_SUFFIX} files")
    for stem in png_stems(folder):
        image = None
        with problems.at(folder / f"{stem}{LABELS_SUFFIX}"):
            image = _read_image(folder, stem, Path(images_dir or folder), problems)
        if image is not None:
            yield image


def write_png(folder: str | Path, images: Iterable[AnnotatedImage]) -> None:
    """Write label map, palette preview, single masks and table of each image into one folder; exact.

    The table comes last: where it is there, the rest is whole. Pictures are not copied. Raises DataError for
    more than 65,535 masks in an image and when two images would share files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for image in distinct_stems(images):
        labels = label_map(
            [record.segmentation for record in image.records],
            [record.predicted_iou or 0.0 for record in image.records],
            image.size_hw,
        )
        _save(folder / f"{image.stem}{LABELS_SUFFIX}", Image.fromarray(labels))
        _save(folder / f"{image.stem}{COLOUR_SUFFIX}", _in_colour(labels, len(image.records)))
        _write_masks(folder / f"{image.stem}{MASKS_SUFFIX}", image.records)
        path = folder / f"{image.stem}{TABLE_SUFFIX}"
        write_text_atomically(path, to_json(path, _table(image)))


def write_overlay(
    path: str | Path,
    image: AnnotatedImage,
    pixels_hwc: np.ndarray,
    scores: bool = False,
    texts: Sequence[str] | None = None,
) -> None:
    """Draw the masks over the picture (H, W, 3) uint8, as a file whose suffix says the format.

    A mask's colour goes by its id and so stays when others come or go. `scores` writes predicted IoUs on
    them, else `texts` are written, one for each. Raises DataError when the picture has another size.
    """
    if pixels_hwc.shape[:2] != image.size_hw:
        raise DataError(f"pixels_hwc is {pixels_hwc.shape[:2]}; allowed: the size of the masks, {image.size_hw}")
    if scores:
        ious = [record.predicted_iou for record in image.records]
        texts = ["" if iou is None else f"{iou:.2f}" for iou in ious]
    colours = _colours([record.id for record in image.records])
    drawn = draw_overlay(pixels_hwc, DecodedMasks(image.records), texts=texts, colours=colours)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(path, Image.fromarray(drawn), quality=92)


class DecodedMasks(Sequence[np.ndarray]):
    """The masks of records, each decoded when it is asked for and not kept."""

    def __init__(self, records: Sequence[MaskRecord]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return self._records[index].mask


def png_stems(folder: Path) -> list[str]:
    """The names, without suffixes, of images that have a label map or a table of masks in a folder."""
    suffixes = (LABELS_SUFFIX, TABLE_SUFFIX)
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted({name.removesuffix(suffix) for name in names for suffix in suffixes if name.endswith(suffix)})


def _table(image: AnnotatedImage) -> dict[str, Any]:
    height, width = image.size_hw
    rows = []
    for label, record in enumerate(image.records, start=1):
        own = {"label": label, "id": record.id, "area": record.area, "bbox": list(record.bbox_xywh)}
        rows.append({**own, **record.facts(), **own})
    facts = {"file_name": image.flat_name, "width": width, "height": height, "image_id": image.image_id}
    return {"image": facts, "masks": rows}


def _write_masks(folder: Path, records: Sequence[MaskRecord]) -> None:
    folder.mkdir(exist_ok=True)
    names = [f"{label:05d}.png" for label in range(1, len(records) + 1)]
    for name, record in zip(names, records, strict=True):
        _save(folder / name, Image.fromarray(record.mask.astype(np.uint8) * 255).convert("1"))
    for path in folder.glob("[0-9][0-9][0-9][0-9][0-9].png"):  # of an earlier run with more masks
        if path.name not in names:
            path.unlink()


def _read_image(folder: Path, stem: str, images_dir: Path, problems: Problems) -> AnnotatedImage:
    table_path = folder / f"{stem}{TABLE_SUFFIX}"
    table = _checked_table(read_json(table_path), table_path) if table_path.exists() else None
    singles = folder / f"{stem}{MASKS_SUFFIX}"
    rows: list[Mapping[str, Any]] = table["masks"] if table else []
    if singles.is_dir() and table:
        size_hw = rle_size_hw({"size": [table["image"].get("height"), table["image"].get("width")]})
        raw = []
        for row in rows:
            path = singles / f"{row['label']:05d}.png"
            with problems.at(path):
                raw.append(raw_record(row.get("id"), _mask_rle(path, size_hw), parse_facts(row, _OWN_KEYS)))
    else:
        labels = _read_labels(folder / f"{stem}{LABELS_SUFFIX}")
        size_hw = (labels.shape[0], labels.shape[1])
        row_of = {row["label"]: row for row in rows}
        values = [row["label"] for row in rows] or [int(value) for value in np.unique(labels) if value]
        raw = []
        for value in values:
            row = row_of.get(value, {"id": value})
            raw.append(raw_record(row.get("id"), encode_rle(labels == value), parse_facts(row, _OWN_KEYS)))
    stated = table["image"].get("file_name") if table else None
    picture = _find_picture(images_dir, stem, stated)
    name = stated or (picture.name if picture else f"{stem}.png")
    records = number_records(raw, problems, table_path)
    return AnnotatedImage(name, size_hw, records, picture, table["image"].get("image_id") if table else None)


def _checked_table(content: Any, path: Path) -> dict[str, Any]:
    is_table = (
        isinstance(content, dict)
        and isinstance(content.get("image"), dict)
        and isinstance(content.get("masks"), list)
        and all(isinstance(row, dict) and isinstance(row.get("label"), int) for row in content["masks"])
    )
    if not is_table:
        raise DataError(f"{path}: is no table of masks; allowed: 'image' and 'masks', each with its 'label'")
    return dict(content)


def _mask_rle(path: Path, size_hw: tuple[int, int]) -> Rle:
    mask = _read_pixels(path) > 0
    if mask.shape != size_hw:
        raise DataError(f"{path}: is {mask.shape} (h, w); allowed: the image's {size_hw}")
    return encode_rle(mask)


def _read_labels(path: Path) -> np.ndarray:
    labels = _read_pixels(path)
    if len(np.unique(labels)) > 2**16:
        raise DataError(f"{path}: has over 65,535 labels; allowed: a map of 16 bits")
    return labels


def _read_pixels(path: Path) -> np.ndarray:
    """The raw values (H, W) of a grey, palette or black and white picture."""
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # decoders of broken files raise nearly anything
        raise DataError(f"{path}: cannot be decoded as an image ({error})") from error
    if pixels.ndim != 2 or pixels.dtype.kind not in "bui":
        raise DataError(f"{path}: has colours or fractions; allowed: one whole number a pixel")
    return pixels


def _find_picture(folder: Path, stem: str, stated: Any) -> Path | None:
    if isinstance(stated, str) and stated and (folder / Path(stated).name).is_file():
        return folder / Path(stated).name
    places = (folder / f"{stem}{suffix}" for suffix in sorted(IMAGE_SUFFIXES))
    return next((place for place in places if place.is_file()), None)


def _in_colour(labels: np.ndarray, count: int) -> Image.Image:
    """A palette picture whose values are the labels, or a plain one where a palette is too short."""
    colours = np.concatenate([np.zeros((1, 3), dtype=np.uint8), palette_rgb(count)])
    if count > _PALETTE_LABELS:
        return Image.fromarray(colours[labels])
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(colours.tobytes())
    return picture


def _colours(ids: Sequence[int]) -> np.ndarray:
    """A colour for each id, the same whatever other ids there are."""
    table = palette_rgb(1024)  # ids farther apart share colours
    return table[np.array([(value - 1) % len(table) for value in ids], dtype=int)]


def _save(path: Path, picture: Image.Image, **options: Any) -> None:
    buffer = io.BytesIO()
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(path.suffix.lower(), "PNG")
    picture.save(buffer, format=kind, **(options if kind != "PNG" else {}))
    write_bytes_atomically(path, buffer.getvalue())
