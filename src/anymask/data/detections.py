"""A detector's boxes, from the files that detectors write: the other half of instance segmentation (paper 7.4, D.4).

Four forms of JSON are read:

- plain by image: {"file name": [[x0, y0, x1, y1], ...]}, where an entry may also be an object as in the next form;
- plain in a row: [{"file_name" (or "image"), "box" (or "bbox_xyxy"), "label", "score", "id"}, ...];
- COCO's results: [{"image_id", "bbox" as x, y, width, height, "category_id", "score"}, ...], together with the data
  set file that gives the images' names and the categories';
- a COCO data set file: its annotations' boxes, those of crowds left out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from anymask.data.coco import is_coco
from anymask.data.sa1b import read_json
from anymask.errors import DataError

PLAIN_KEYS = ("box", "bbox_xyxy")
NAME_KEYS = ("file_name", "image")


@dataclass(frozen=True)
class Detection:
    """One found object: its box in pixels of the image, and its class, score and number where they are known."""

    box_xyxy: tuple[float, float, float, float]
    category: str | None = None
    score: float | None = None
    id: int | None = None
    category_id: int | None = None


@dataclass(frozen=True)
class DetectedImage:
    """An image's file name, as the file has it, and what was found in it."""

    file_name: str
    detections: tuple[Detection, ...]
    image_id: int | str | None = None


def read_detections(
    path: str | Path, coco_images: str | Path | None = None, min_score: float | None = None
) -> list[DetectedImage]:
    """All boxes of a file, by image in the order of the file; those that score less than `min_score` are left out.

    `coco_images` is the COCO data set file that a results list belongs to. Boxes without a score stay. Raises
    `DataError`, naming the file and the entry, for what is none of the forms above.
    """
    content = read_json(path)
    if is_coco(content):
        images = _from_coco(content, content["annotations"], Path(path), Path(path))
    elif isinstance(content, Mapping):
        images = _from_names(content, path)
    elif isinstance(content, list):
        entries = [_checked_entry(entry, f"{path}: [{index}]") for index, entry in enumerate(content)]
        if any("image_id" in entry and not _name_of(entry) for entry in entries):
            images = _from_results(entries, Path(path), coco_images)
        else:
            images = _from_rows(entries, path)
    else:
        raise DataError(f"{path}: is a {type(content).__name__}; allowed: {_FORMS}")
    if min_score is None:
        return images
    return [
        replace(image, detections=tuple(one for one in image.detections if one.score is None or one.score >= min_score))
        for image in images
    ]


def digest(images: Iterable[DetectedImage]) -> str:
    """16 hex digits that change with any box, name, class or score."""
    return hashlib.sha256(repr([asdict(image) for image in images]).encode()).hexdigest()[:16]


_FORMS = 'an object {"file name": [[x0, y0, x1, y1], ...]}, a list of objects, or a COCO file'


def _from_names(content: Mapping[str, Any], path: str | Path) -> list[DetectedImage]:
    images = []
    for name, entries in content.items():
        if not isinstance(entries, list):
            raise DataError(f"{path}: {name!r} has a {type(entries).__name__}; allowed: {_FORMS}")
        found = [
            _plain({"box": entry} if isinstance(entry, list) else entry, f"{path}: {name!r}[{index}]")
            for index, entry in enumerate(entries)
        ]
        images.append(DetectedImage(name, tuple(found)))
    return images


def _from_rows(entries: list[Mapping[str, Any]], path: str | Path) -> list[DetectedImage]:
    found: dict[str, list[Detection]] = {}
    for index, entry in enumerate(entries):
        place = f"{path}: [{index}]"
        name = _name_of(entry)
        if not name:
            raise DataError(f"{place}: names no image; allowed: {' or '.join(NAME_KEYS)}, or COCO's image_id")
        found.setdefault(name, []).append(_plain(entry, place))
    return [DetectedImage(name, tuple(detections)) for name, detections in found.items()]


def _from_results(entries: list[Mapping[str, Any]], path: Path, coco_images: str | Path | None) -> list[DetectedImage]:
    if coco_images is None:
        raise DataError(
            f"{path}: has image_id for names; allowed: together with the COCO file that these belong to (--coco-images)"
        )
    content = read_json(coco_images)
    if not isinstance(content, Mapping) or not isinstance(content.get("images"), list):
        raise DataError(f"{coco_images}: is no COCO data set file; allowed: an object with 'images'")
    return _from_coco(content, entries, path, Path(coco_images))


def _from_coco(
    content: Mapping[str, Any], annotations: list[Any], path: Path, images_path: Path
) -> list[DetectedImage]:
    """The images of a COCO `content`, read from `images_path`, with the boxes of `annotations` from `path`."""
    names = {}
    for index, entry in enumerate(content["images"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or "id" not in entry:
            raise DataError(f"{images_path}: images[{index}] has no id or no file_name; allowed: both")
        names[entry["id"]] = entry["file_name"]
    categories = {
        entry["id"]: str(entry["name"])
        for entry in content.get("categories") or []
        if isinstance(entry, dict) and {"id", "name"} <= entry.keys()
    }
    found: dict[Any, list[Detection]] = {image_id: [] for image_id in names}
    for index, entry in enumerate(annotations):
        place = f"{path}: annotations[{index}]"
        entry = _checked_entry(entry, place)
        if entry.get("image_id") not in found:
            raise DataError(f"{place}: image_id is {entry.get('image_id')!r}; allowed: an image of {images_path}")
        if not entry.get("iscrowd"):
            found[entry["image_id"]].append(_coco_detection(entry, categories, place))
    return [DetectedImage(names[image_id], tuple(detections), image_id) for image_id, detections in found.items()]


def _coco_detection(entry: Mapping[str, Any], categories: Mapping[int, str], place: str) -> Detection:
    x, y, width, height = _box(entry.get("bbox"), f"{place}: bbox", "x, y, width, height")
    category_id = entry.get("category_id")
    if categories and category_id not in categories:
        raise DataError(f"{place}: category_id is {category_id!r}; allowed: the id of a category")
    return Detection(
        (x, y, x + width, y + height),
        categories.get(category_id),  # type: ignore[arg-type]
        _score(entry, place),
        _whole(entry.get("id")),
        _whole(category_id),
    )


def _plain(entry: Any, place: str) -> Detection:
    entry = _checked_entry(entry, place)
    key = next((key for key in PLAIN_KEYS if key in entry), None)
    if key is None:
        hint = " (bbox alone may be either order of numbers)" if "bbox" in entry else ""
        raise DataError(f"{place}: has no box{hint}; allowed: {' or '.join(PLAIN_KEYS)}, [x0, y0, x1, y1]")
    x0, y0, x1, y1 = _box(entry[key], f"{place}: {key}", "x0, y0, x1, y1")
    label = entry.get("label", entry.get("category"))
    return Detection(
        (x0, y0, x1, y1), None if label is None else str(label), _score(entry, place), _whole(entry.get("id"))
    )


def _checked_entry(entry: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise DataError(f"{place}: is a {type(entry).__name__}; allowed: an object")
    return entry


def _name_of(entry: Mapping[str, Any]) -> str | None:
    return next((entry[key] for key in NAME_KEYS if isinstance(entry.get(key), str) and entry[key]), None)


def _box(value: Any, place: str, order: str) -> list[float]:
    if not isinstance(value, list) or len(value) != 4 or not all(_is_finite(number) for number in value):
        raise DataError(f"{place} is {value!r}; allowed: four finite numbers {order}")
    return [float(number) for number in value]


def _score(entry: Mapping[str, Any], place: str) -> float | None:
    score = entry.get("score")
    if score is not None and not _is_finite(score):
        raise DataError(f"{place}: score is {score!r}; allowed: a finite number")
    return None if score is None else float(score)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
