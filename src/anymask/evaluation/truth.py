"""Data sets as the detection experiments need them: masks with categories, stated areas, crowds and LVIS's rules.

Layouts: a COCO or LVIS instances file (or a folder that holds one), or a folder in SA-1B's layout, whose masks
have no categories here. Masks are worked out when their image is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from anymask.data.coco import find_coco, is_coco, segmentation_rle
from anymask.data.sa1b import Sa1bFolder, is_sa1b, read_json
from anymask.errors import DataError
from anymask.evaluation.predictions import evenly_spaced
from anymask.geometry.rle import Rle, checked_rle, rle_area, rle_size_hw, rle_to_box_xywh

# LVIS's letters: in 1 to 10 images of the train set, in 11 to 100, in more.
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


@dataclass(frozen=True)
class TrueObject:
    """One true mask. area and bbox_xywh: as the file states them (COCO's sizes and box scores go by these).

    category_id: None where nothing has a category. is_crowd: a region of many that nothing needs to find.
    """

    rle: Rle
    area: float
    bbox_xywh: tuple[float, float, float, float]
    category_id: int | None = None
    is_crowd: bool = False


@dataclass(frozen=True)
class TrueImage:
    """One image's truth.

    neg_category_ids: categories known not to be in the image; not_exhaustive_category_ids: those of which not
    every instance is marked (LVIS). digest: changes whenever anything of this changes.
    """

    name: str
    path: Path | None
    size_hw: tuple[int, int]
    image_id: int | str
    objects: tuple[TrueObject, ...]
    digest: str
    neg_category_ids: frozenset[int] = frozenset()
    not_exhaustive_category_ids: frozenset[int] = frozenset()

    def require_path(self) -> Path:
        """Where the picture lies. Raises DataError when it was not found."""
        if self.path is None:
            raise DataError(f"{self.name}: the picture was not found; allowed: --images-dir, the folder where it lies")
        return self.path


@dataclass(frozen=True)
class Category:
    """A class of objects; frequency: "rare", "common" or "frequent" in LVIS, None elsewhere."""

    name: str
    frequency: str | None = None


class _Source(Protocol):
    """Where a set's truth is read from."""

    keys: list[Any]

    def name(self, key: Any) -> str:
        """One image's file name."""

    def image(self, key: Any) -> TrueImage:
        """One image's truth."""


class TrueSet:
    """A data set's truth, an image at a time; `open_truth` finds out which layout a path has.

    keys: what stands for each image, in the set's order. categories: by id, empty where there are none. is_federated:
    LVIS's, where an image is judged only on the categories that it was checked for.
    """

    def __init__(
        self, path: Path, images_dir: Path | None, source: _Source, categories: Mapping[int, Category] | None = None
    ) -> None:
        self.path = path
        self.images_dir = images_dir
        self.categories = dict(categories or {})
        self.is_federated = any(category.frequency for category in self.categories.values())
        self.keys = source.keys
        self._source = source

    @property
    def name(self) -> str:
        """The last two parts of its path; COCO's folder `annotations` says nothing and is left out."""
        parts = [part for part in self.path.resolve().with_suffix("").parts[1:] if part != "annotations"]
        return "/".join(parts[-2:])

    def describe(self) -> dict[str, Any]:
        """Where it lies, as JSON values from which `open_truth` opens it again."""
        images_dir = None if self.images_dir is None else str(self.images_dir.resolve())
        return {"data": str(self.path.resolve()), "images_dir": images_dir}

    def image_name(self, key: Any) -> str:
        """One image's file name, without working out its truth."""
        return self._source.name(key)

    def image(self, key: Any) -> TrueImage:
        """One image's truth. Raises DataError, naming the file, where it is broken."""
        return self._source.image(key)

    def images(self, limit: int | None = None) -> Iterator[TrueImage]:
        """The images, at most `limit` of them and then evenly spaced."""
        return (self.image(key) for key in evenly_spaced(self.keys, limit))

    def count(self, limit: int | None = None) -> int:
        """How many images `images` gives."""
        return len(self.keys) if limit is None else min(limit, len(self.keys))


class _CocoFile:
    """The images of a COCO or LVIS file, by id."""

    def __init__(self, path: Path, content: Mapping[str, Any], folders: list[Path]) -> None:
        self.path, self._folders = path, folders
        try:
            self.categories = {
                int(entry["id"]): Category(str(entry["name"]), FREQUENCIES.get(entry.get("frequency", "")))
                for entry in content.get("categories", [])
            }
            self._entries = {entry["id"]: entry for entry in content["images"]}
            self._annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
            for annotation in content["annotations"]:
                self._annotations[annotation["image_id"]].append(annotation)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: is no COCO instances file ({error!r})") from error
        self.keys: list[Any] = sorted(self._entries, key=lambda key: (str(type(key)), key))

    def name(self, key: Any) -> str:
        entry = self._entries[key]
        try:
            # LVIS has no file names: the last two parts of the address are folder and name in COCO.
            return str(entry.get("file_name") or "/".join(str(entry["coco_url"]).split("/")[-2:]))
        except KeyError as error:
            raise DataError(f"{self.path}: image {key!r} has neither file_name nor coco_url") from error

    def image(self, key: Any) -> TrueImage:
        entry, annotations = self._entries[key], self._annotations.get(key, [])
        try:
            size_hw = rle_size_hw({"size": [entry.get("height"), entry.get("width")]})
            name = self.name(key)
            objects = tuple(_coco_object(annotation, size_hw) for annotation in annotations)
            return TrueImage(
                name,
                _find_picture(name, self._folders),
                size_hw,
                key,
                objects,
                _digest([entry, annotations]),
                frozenset(entry.get("neg_category_ids", [])),
                frozenset(entry.get("not_exhaustive_category_ids", [])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{self.path}: image {key!r}: {error}") from error


class _Sa1bImages:
    """The images of a folder in SA-1B's layout, by number."""

    def __init__(self, path: Path) -> None:
        self._folder = Sa1bFolder(path)
        self.keys: list[Any] = list(range(len(self._folder)))

    def name(self, key: Any) -> str:
        return self._folder.names[key]

    def image(self, key: Any) -> TrueImage:
        sample = self._folder[key]
        try:
            objects = tuple(
                TrueObject(checked_rle(annotation.rle), annotation.area, annotation.bbox_xywh)
                for annotation in sample.annotations
            )
        except DataError as error:
            raise DataError(f"{sample.json_path}: {error}") from error
        name = sample.image_path.name
        digest = hashlib.sha256(sample.json_path.read_bytes()).hexdigest()
        return TrueImage(name, sample.image_path, sample.size_hw, sample.image_path.stem, objects, digest)


def open_truth(path: str | Path, images_dir: str | Path | None = None) -> TrueSet:
    """The truth in a COCO or LVIS file, in a folder that holds one, or in a folder in SA-1B's layout.

    Pictures of a COCO file are looked for in `images_dir`, else beside it as COCO's own folders lie. Raises
    DataError when the path is neither.
    """
    path = Path(path)
    if path.is_dir() and any(is_sa1b(read_json(file)) for file in sorted(path.glob("*.json"))[:1]):
        return TrueSet(path, None, _Sa1bImages(path))
    file = find_coco(path)
    content = read_json(file)
    if not is_coco(content):
        raise DataError(f"{file}: is no COCO instances file; allowed: that, or a folder in SA-1B's layout")
    images_dir = None if images_dir is None else Path(images_dir)
    source = _CocoFile(file, content, _usual_folders(file) if images_dir is None else [images_dir])
    return TrueSet(file, images_dir, source, source.categories)


def _coco_object(entry: Mapping[str, Any], size_hw: tuple[int, int]) -> TrueObject:
    rle = checked_rle(segmentation_rle(entry.get("segmentation"), size_hw))
    area = float(entry["area"]) if "area" in entry else float(rle_area(rle))
    x, y, width, height = (float(value) for value in entry.get("bbox") or rle_to_box_xywh(rle))
    return TrueObject(rle, area, (x, y, width, height), int(entry["category_id"]), bool(entry.get("iscrowd")))


def _usual_folders(path: Path) -> list[Path]:
    above = path.parent.parent if path.parent.name == "annotations" else path.parent
    split = path.stem.removeprefix("instances_")
    return [above, above / "images", above / split, above / "images" / split]


def _find_picture(name: str, folders: list[Path]) -> Path | None:
    """The picture in one of the folders, with or without the folder in its name."""
    parts = Path(name)
    if ".." in parts.parts or parts.is_absolute():
        raise DataError(f"file_name is {name!r}; allowed: a relative path with forward slashes")
    candidates = [folder / wanted for folder in folders for wanted in (parts, parts.name)]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
