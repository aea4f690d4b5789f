"""LabelMe JSON: NAME.json beside each picture, for looking through masks and correcting them by hand.

A mask is one polygon shape for each of its regions, held together by `group_id` (the mask's id). A polygon
cannot have holes, so a region with one becomes a shape of type "mask", a small picture (LabelMe 5.3 and
later). Masks without a category are labelled "object". Polygons are thinned out by one pixel of tolerance
unless asked otherwise, for nobody can edit a thousand corners; each region keeps an IoU of at least 0.9.
Without tolerance they are exact. Facts that LabelMe has no key for stay on a mask's first shape under SA-1B's
names, where LabelMe keeps them. Lost: empty masks.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from anymask.data.annotated import (
    UNNAMED,
    AnnotatedImage,
    Problems,
    RawRecord,
    number_records,
    parse_facts,
    raw_record,
)
from anymask.data.images import image_size_hw
from anymask.data.sa1b import distinct_stems, read_json, to_json, write_text_atomically
from anymask.errors import DataError
from anymask.geometry.polygons import mask_to_outlines, outlines_to_mask, polygons_to_rle, simplify_ring
from anymask.geometry.rle import decode_rle, encode_rle, rle_size_hw
from anymask.records import MaskRecord

VERSION = "5.5.0"  # the LabelMe whose files these are like
_SHAPE_KEYS = ("label", "points", "group_id", "description", "shape_type", "flags", "mask")


def read_labelme(
    folder: str | Path, images_dir: str | Path | None = None, problems: Problems | None = None
) -> Iterator[AnnotatedImage]:
    """The images of a folder of LabelMe files, sorted; JSON files that are something else are passed over.

    Polygons, rectangles, circles and masks are read; shapes of one label and group are one mask, others one
    each. Raises DataError, naming file and shape, for what is broken or has no area (points, lines), or
    collects it in `problems`.
    """
    problems = problems or Problems()
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; allowed: a folder of LabelMe files NAME.json")
    for path in sorted(folder.glob("*.json")):
        image = None
        with problems.at(path):
            content = read_json(path)
            if is_labelme(content):
                image = _read_image(path, content, images_dir, problems)
        if image is not None:
            yield image


def write_labelme(folder: str | Path, images: Iterable[AnnotatedImage], tolerance: float = 1.0) -> None:
    """Write one LabelMe JSON for each image into one folder; pictures are not copied, they belong beside it.

    `tolerance` in pixels thins polygons out by `simplify_ring`; 0 is exact. Raises DataError when two images
    would have the same JSON.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for image in distinct_stems(images):
        path = folder / f"{image.stem}.json"
        written = {record.id for record in image.records if record.area}
        shapes: list[dict[str, Any]] = []
        for record in image.records:
            parent_id = record.parent_id if record.parent_id in written else None
            shapes += _shapes(replace(record, parent_id=parent_id), tolerance)
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image.flat_name,
            "imageData": None,
            "imageHeight": image.size_hw[0],
            "imageWidth": image.size_hw[1],
        }
        write_text_atomically(path, to_json(path, content))


def is_labelme(content: Any) -> bool:
    """Whether what a JSON file holds looks like LabelMe's."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def _shapes(record: MaskRecord, tolerance: float) -> Iterator[dict[str, Any]]:
    facts = record.facts()
    facts.pop("category", None)
    for region in mask_to_outlines(record.mask):
        shape = {"label": record.category or UNNAMED, "group_id": record.id, "description": "", "flags": {}}
        yield facts | shape | (_polygon(region[0], tolerance) if len(region) == 1 else _picture(region))
        facts = {}


def _polygon(outline: np.ndarray, tolerance: float) -> dict[str, Any]:
    points = simplify_ring(outline, tolerance).astype(float).tolist()
    return {"shape_type": "polygon", "points": points, "mask": None}


def _picture(region: list[np.ndarray]) -> dict[str, Any]:
    """A region with holes as a picture of its box; the two points are the first and the last pixel."""
    (left, top), (right, bottom) = region[0].min(axis=0), region[0].max(axis=0)
    window = outlines_to_mask([[ring - [left, top] for ring in region]], (bottom - top, right - left))
    buffer = io.BytesIO()
    Image.fromarray(window.astype(np.uint8) * 255).save(buffer, format="PNG")
    return {
        "shape_type": "mask",
        "points": [[float(left), float(top)], [float(right - 1), float(bottom - 1)]],
        "mask": base64.b64encode(buffer.getvalue()).decode("ascii"),
    }


def _read_image(
    path: Path, content: Mapping[str, Any], images_dir: str | Path | None, problems: Problems
) -> AnnotatedImage:
    stated = content["imagePath"]
    if not isinstance(stated, str) or not stated:
        raise DataError(f"imagePath is {stated!r}; allowed: the picture's path")
    stated = stated.replace("\\", "/")
    name = PurePosixPath(stated).name
    places = [path.parent / stated] if images_dir is None else [Path(images_dir) / name]
    picture = next((place for place in places if place.is_file()), None)
    sides = [content.get("imageHeight"), content.get("imageWidth")]
    if None in sides and picture is not None:
        sides = list(image_size_hw(picture))
    size_hw = rle_size_hw({"size": sides})
    masks: dict[Any, dict[str, Any]] = {}
    for index, shape in enumerate(content["shapes"]):
        with problems.at(f"{path}: shapes[{index}]"):
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
                raise DataError("has no label; allowed: an object with label, points and shape_type")
            mask = _shape_mask(shape, size_hw)
            group = shape.get("group_id")
            key = (shape["label"], group) if isinstance(group, int | str) else ("", index, "alone")
            if key in masks:
                masks[key]["mask"] |= mask
            else:
                masks[key] = {"id": group, "mask": mask, "facts": _facts(shape)}
    raw = _raw_records(list(masks.values()))
    return AnnotatedImage(name, size_hw, number_records(raw, problems, path), picture)


def _facts(shape: Mapping[str, Any]) -> dict[str, Any]:
    facts = parse_facts(shape, _SHAPE_KEYS)
    return facts | {"category": None if shape["label"] == UNNAMED else shape["label"]}


def _raw_records(masks: list[dict[str, Any]]) -> list[RawRecord]:
    """One group may hold several labels, and shapes may have none: those get the next free numbers."""
    taken = {entry["id"] for entry in masks if isinstance(entry["id"], int)}
    free = max(taken, default=0)
    used: set[Any] = set()
    raw = []
    for entry in masks:
        mask_id = entry["id"]
        if not isinstance(mask_id, int) or mask_id in used:
            free += 1
            mask_id = free
        used.add(mask_id)
        raw.append(raw_record(mask_id, encode_rle(entry["mask"]), entry["facts"]))
    return raw


def _shape_mask(shape: Mapping[str, Any], size_hw: tuple[int, int]) -> np.ndarray:
    kind = shape.get("shape_type") or "polygon"
    try:
        points = np.array(shape.get("points"), dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise DataError(f"points is no list of x, y ({error})") from error
    if kind == "polygon":
        return decode_rle(polygons_to_rle([points], size_hw))
    if kind not in ("rectangle", "circle", "mask"):
        raise DataError(f"shape_type is {kind!r}; allowed: polygon, rectangle, circle or mask, with an area")
    if len(points) != 2 or not (np.abs(points) <= 2 * max(size_hw)).all():  # NaN is not, either
        raise DataError(f"points is {points.tolist()}; allowed for a {kind}: two points in the image")
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        return decode_rle(polygons_to_rle([np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])], size_hw))
    if kind == "circle":
        rows, columns = np.ogrid[: size_hw[0], : size_hw[1]]
        centre_x, centre_y = points[0]
        squared = (columns + 0.5 - centre_x) ** 2 + (rows + 0.5 - centre_y) ** 2
        return np.asarray(squared <= np.square(points[1] - points[0]).sum())
    return _pasted(shape.get("mask"), points, size_hw)


def _pasted(text: Any, points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
            window = np.array(picture.convert("L")) > 0
    except (
        TypeError,
        ValueError,
        OSError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"mask is no picture in base64 ({error})") from error
    (left, top), (right, bottom) = np.rint(points).astype(int)
    expected = (bottom - top + 1, right - left + 1)
    inside = left >= 0 and top >= 0 and bottom < size_hw[0] and right < size_hw[1]
    if window.shape != expected or not inside:
        raise DataError(
            f"mask has {window.shape} pixels (h, w) for points {points.tolist()}; allowed: {expected}, inside"
            f" the image {size_hw}"
        )
    mask = np.zeros(size_hw, dtype=bool)
    mask[top : bottom + 1, left : right + 1] = window
    return mask
