"""Folders in SA-1B's layout: NAME.json beside NAME.jpg (or .jpeg, .png), one per image (paper, section 5).

A JSON holds `image` {image_id, width, height, file_name} and `annotations`, each {id, segmentation (COCO
RLE), area, bbox XYWH} with the generator's predicted_iou, stability_score, crop_box and point_coords or any
other keys.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anymask.data.images import read_image
from anymask.errors import DataError
from anymask.geometry.rle import Rle, decode_rles, encode_rles, rle_area, rle_size_hw, rle_to_box_xywh

SA1B_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_OWN_KEYS = ("id", "segmentation", "area", "bbox")


@dataclass(frozen=True)
class Annotation:
    """One mask: its COCO RLE, area in pixels, box x, y, width, height, and whatever else the file says."""

    id: int | str
    rle: Rle
    area: float
    bbox_xywh: tuple[float, float, float, float]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One image and its masks; pixels and masks are decoded when asked for."""

    image_path: Path
    size_hw: tuple[int, int]
    annotations: tuple[Annotation, ...]

    @property
    def json_path(self) -> Path:
        """The annotation file beside the image."""
        return self.image_path.with_suffix(".json")

    def read_image(self) -> np.ndarray:
        """HxWx3 uint8 RGB. Raises ImageError when unreadable, DataError when its size is not `size_hw`."""
        image = read_image(self.image_path)
        if image.shape[:2] != self.size_hw:
            raise DataError(
                f"{self.json_path}: image size is {self.size_hw} (h, w); the file has {image.shape[:2]}"
            )
        return image

    def masks_khw(self) -> np.ndarray:
        """All masks (K, H, W) bool in file order. Raises DataError, naming the file, if one is broken."""
        try:
            return decode_rles([annotation.rle for annotation in self.annotations], self.size_hw)
        except DataError as error:
            raise DataError(f"{self.json_path}: {error}") from error


class Sa1bFolder:
    """The samples of one folder, sorted by image name, each JSON parsed when its sample is asked for.

    `names` (image file names, as a split lists them) keeps those samples alone. A JSON without an image
    beside it is an error when it is an annotation file and passed over when it is something else, such as a
    COCO instances file. Raises DataError when the folder is missing or has no samples, or a named image is
    not in it.
    """

    def __init__(self, path: str | Path, names: Iterable[str] | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise DataError(f"{self.path}: is not a folder; allowed: a folder with NAME.json beside NAME.jpg")
        self.names: list[str] = sorted(self._find_names() if names is None else self._checked_names(names))
        if not self.names:
            raise DataError(f"{self.path}: has no samples; allowed: NAME.json beside NAME.jpg, .jpeg or .png")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return read_sample(self.path / self.names[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def _find_names(self) -> list[str]:
        files = sorted(entry.name for entry in os.scandir(self.path) if not entry.name.startswith("."))
        # Of NAME.jpg and NAME.png the first counts (hence reversed): a PNG beside a photograph is a drawing of it.
        pictures = [name for name in reversed(files) if Path(name).suffix.lower() in SA1B_IMAGE_SUFFIXES]
        images = {Path(name).stem: name for name in pictures}
        found = []
        for name in files:
            if not name.endswith(".json"):
                continue
            stem = Path(name).stem
            if stem in images:
                found.append(images[stem])
            elif _is_annotation_file(read_json(self.path / name)):
                raise DataError(f"{self.path / name}: no image beside it; allowed: {stem}.jpg, .jpeg or .png")
        return found

    def _checked_names(self, names: Iterable[str]) -> set[str]:
        wanted = set(names)
        for name in sorted(wanted):
            for needed in (self.path / name, (self.path / name).with_suffix(".json")):
                if not needed.is_file():
                    raise DataError(f"{needed}: no such file, though names asks for {name!r}")
        return wanted


def read_sample(image_path: str | Path) -> Sample:
    """The sample of one image, from the JSON beside it; DataError, naming that file, if it is broken."""
    image_path = Path(image_path)
    json_path = image_path.with_suffix(".json")
    content = read_json(json_path)
    if not _is_annotation_file(content):
        raise DataError(f"{json_path}: is no SA-1B file; allowed: an object with 'image' and 'annotations'")
    try:
        size_hw = rle_size_hw({"size": [content["image"].get("height"), content["image"].get("width")]})
    except DataError as error:
        raise DataError(f"{json_path}: image height and width: {error}") from error
    annotations = []
    for index, entry in enumerate(content["annotations"]):
        try:
            annotations.append(_parse_annotation(entry, index, size_hw))
        except DataError as error:
            raise DataError(f"{json_path}: annotations[{index}]: {error}") from error
    return Sample(image_path, size_hw, tuple(annotations))


def read_json(path: str | Path) -> Any:
    """What a JSON file holds. Raises DataError, naming the file, when it cannot be read or parsed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not readable as JSON ({error})") from error


def read_split(splits_json: str | Path, set_name: str, part: str) -> list[str]:
    """The image names of one part of one set from a file {"coco/train": {"train": [...], "val": [...]}}.

    Raises DataError, naming the file and what it has, when the set or the part is not in it.
    """
    content = read_json(splits_json)
    for key in (set_name, part):
        if not isinstance(content, dict) or key not in content:
            known = sorted(content) if isinstance(content, dict) else "no object"
            raise DataError(f"{splits_json}: has no {key!r} for {set_name!r}, {part!r}; allowed: {known}")
        content = content[key]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise DataError(f"{splits_json}: {set_name!r}, {part!r} is not a list of names")
    return content


def write_sa1b(
    path: str | Path,
    image_name: str,
    size_hw: tuple[int, int],
    masks_khw: np.ndarray,
    extras: Sequence[Mapping[str, Any]] | None = None,
    image_id: int | str | None = None,
) -> None:
    """Write one image's masks (K, H, W) as one SA-1B JSON at `path`, whole or not at all.

    `extras` gives each mask's further keys (predicted_iou, stability_score, point_coords, crop_box,
    category...); crop_box is the whole image where it says nothing, and any other key that is not given is
    left out rather than invented. `image_id` is the image's name without suffix unless given. The file is
    written beside and then renamed, so an interrupted run leaves the old file or the new one. Raises
    DataError when sizes or counts disagree or a value is not JSON (NaN included).
    """
    path = Path(path)
    masks = np.asarray(masks_khw)
    height, width = (int(side) for side in size_hw)
    if masks.ndim != 3 or masks.shape[1:] != (height, width):
        raise DataError(f"masks_khw has shape {masks.shape}; allowed: (K, {height}, {width}) by size_hw")
    if extras is not None and len(extras) != len(masks):
        raise DataError(f"extras has {len(extras)} entries; allowed: one for each of the {len(masks)} masks")
    annotations = []
    for index, rle in enumerate(encode_rles(masks)):
        extra = dict(extras[index]) if extras is not None else {}
        if clash := [key for key in _OWN_KEYS if key in extra]:
            raise DataError(f"extras[{index}] has {clash}; allowed: any key but {list(_OWN_KEYS)}")
        own = {
            "id": index + 1,
            "segmentation": rle,
            "area": rle_area(rle),
            "bbox": list(rle_to_box_xywh(rle)),
            "crop_box": [0, 0, width, height],
        }
        annotations.append(own | extra)
    image = {
        "image_id": Path(image_name).stem if image_id is None else image_id,
        "width": width,
        "height": height,
        "file_name": image_name,
    }
    try:
        text = json.dumps({"image": image, "annotations": annotations}, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: extras cannot be written as JSON ({error})") from error
    write_text_atomically(path, text)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_annotation_file(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("image"), dict)
        and isinstance(content.get("annotations"), list)
    )


def _parse_annotation(entry: Any, index: int, size_hw: tuple[int, int]) -> Annotation:
    if not isinstance(entry, dict):
        raise DataError(f"is a {type(entry).__name__}; allowed: an object")
    rle = entry.get("segmentation")
    if not isinstance(rle, dict):
        raise DataError(f"segmentation is a {type(rle).__name__}; allowed: a COCO RLE object (size, counts)")
    if rle_size_hw(rle) != size_hw:
        raise DataError(f"segmentation size is {rle['size']}; allowed: the image's, {list(size_hw)}")
    box = entry["bbox"] if "bbox" in entry else rle_to_box_xywh(rle)
    area = entry["area"] if "area" in entry else rle_area(rle)
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_number, box)):
        raise DataError(f"bbox is {box!r}; allowed: four numbers x, y, width, height")
    if not _is_number(area):
        raise DataError(f"area is {area!r}; allowed: a number of pixels")
    extra = {key: value for key, value in entry.items() if key not in _OWN_KEYS}
    x, y, width, height = (float(number) for number in box)
    return Annotation(entry.get("id", index + 1), rle, float(area), (x, y, width, height), extra)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Arrays and numpy numbers as plain JSON values."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")
