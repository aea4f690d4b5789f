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

from anymask.data.annotated import (
    AnnotatedImage,
    Problems,
    check_stated,
    number_records,
    parse_facts,
    raw_record,
)
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

    def encoded(self) -> bytes:
        """The picture's file as it is."""
        return self.image_path.read_bytes()

    def read_image(self, scale: float = 1.0) -> np.ndarray:
        """HxWx3 uint8 RGB. Raises ImageError when unreadable, DataError when its size is not `size_hw`.

        Who needs only `scale` of the size may get less than the whole: samples from tars decode no more than that.
        """
        image = read_image(self.image_path)
        if image.shape[:2] != self.size_hw:
            raise DataError(f"{self.json_path}: image size is {self.size_hw} (h, w); the file has {image.shape[:2]}")
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
        json_names, images = _files_of(self.path)
        found = []
        for name in json_names:
            stem = Path(name).stem
            if stem in images:
                found.append(images[stem])
            elif is_sa1b(read_json(self.path / name)):
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
    size_hw, annotations = parse_annotations(read_json(json_path), json_path)
    return Sample(image_path, size_hw, annotations)


def parse_annotations(content: Any, origin: str | Path) -> tuple[tuple[int, int], tuple[Annotation, ...]]:
    """The image's size (h, w) and masks, from what an SA-1B JSON holds; DataError, naming `origin`, if it is broken."""
    if not is_sa1b(content):
        raise DataError(f"{origin}: is no SA-1B file; allowed: an object with 'image' and 'annotations'")
    try:
        size_hw = _stated_size(content)
    except DataError as error:
        raise DataError(f"{origin}: {error}") from error
    annotations = []
    for index, entry in enumerate(content["annotations"]):
        try:
            annotations.append(_parse_annotation(entry, index, size_hw))
        except DataError as error:
            raise DataError(f"{origin}: annotations[{index}]: {error}") from error
    return size_hw, tuple(annotations)


def read_sa1b(
    folder: str | Path, images_dir: str | Path | None = None, problems: Problems | None = None
) -> Iterator[AnnotatedImage]:
    """The images of a folder in SA-1B's layout with their records, sorted, one JSON read at a time.

    Areas and boxes are the masks' own. A JSON that is something else is passed over; one without an image
    beside it (or in `images_dir`) has no `image_path`. Raises DataError, naming the file, for what is broken,
    or collects it in `problems`.
    """
    problems = problems or Problems()
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; allowed: a folder with NAME.json beside NAME.jpg")
    json_names, _ = _files_of(folder)
    pictures_dir = Path(images_dir or folder)
    _, pictures = _files_of(pictures_dir)
    for name in json_names:
        image = None
        with problems.at(folder / name):
            content = read_json(folder / name)
            if is_sa1b(content):
                picture = pictures.get(Path(name).stem)
                path = None if picture is None else pictures_dir / picture
                image = _read_annotated(folder / name, content, path, problems)
        if image is not None:
            yield image


def write_sa1b_folder(folder: str | Path, images: Iterable[AnnotatedImage]) -> None:
    """Write one SA-1B JSON for each image into one folder (made if it is not there); exact.

    Pictures are not copied. Raises DataError when two images would have the same JSON or a fact is not JSON.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for image in distinct_stems(images):
        write_sa1b_image(folder / f"{image.stem}.json", image)


def write_sa1b_image(path: str | Path, image: AnnotatedImage) -> None:
    """Write one image's records as one SA-1B JSON, whole or not at all. Raises DataError as `write_sa1b`."""
    annotations = [record.to_sa1b() for record in image.records]
    _write_content(Path(path), image.flat_name, image.size_hw, annotations, image.image_id)


def distinct_stems(images: Iterable[AnnotatedImage]) -> Iterator[AnnotatedImage]:
    """The images as they come; DataError for one whose name without folder and suffix came before."""
    seen: dict[str, str] = {}
    for image in images:
        if image.stem in seen:
            raise DataError(f"{image.file_name} and {seen[image.stem]} would share one file; allowed: distinct stems")
        seen[image.stem] = image.file_name
        yield image


def read_json(path: str | Path) -> Any:
    """What a JSON file holds. Raises DataError, naming the file, when it cannot be read or parsed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not readable as JSON ({error})") from error


def is_sa1b(content: Any) -> bool:
    """Whether what a JSON file holds looks like SA-1B's."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("image"), dict)
        and isinstance(content.get("annotations"), list)
    )


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
    _write_content(path, image_name, (height, width), annotations, image_id)


def to_json(path: Path, content: Any) -> str:
    """The content as JSON text, arrays and numpy numbers included.

    Raises DataError, naming the file it was meant for, when something in it is not JSON (NaN included).
    """
    try:
        return json.dumps(content, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: extras cannot be written as JSON ({error})") from error


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _files_of(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The names of the JSON files, sorted, and the image's name for each stem that has one."""
    files = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    # Of NAME.jpg and NAME.png the first counts (hence reversed): a PNG beside a photo is a drawing of it.
    pictures = [name for name in reversed(files) if Path(name).suffix.lower() in SA1B_IMAGE_SUFFIXES]
    return [name for name in files if name.endswith(".json")], {Path(name).stem: name for name in pictures}


def _read_annotated(
    json_path: Path, content: dict[str, Any], picture: Path | None, problems: Problems
) -> AnnotatedImage:
    size_hw = _stated_size(content)
    stated = content["image"].get("file_name")
    if problems.collect and picture is not None and stated != picture.name:
        with problems.at(json_path):
            raise DataError(f"file_name is {stated!r}; the image is {picture.name!r}")
    raw = []
    for index, entry in enumerate(content["annotations"]):
        with problems.at(f"{json_path}: annotations[{index}]"):
            annotation = _parse_annotation(entry, index, size_hw)
            raw.append(raw_record(annotation.id, annotation.rle, parse_facts(entry, _OWN_KEYS)))
            if problems.collect:
                check_stated(annotation.area, annotation.bbox_xywh, raw[-1].record)
    image_id = content["image"].get("image_id")
    return AnnotatedImage(
        file_name=picture.name if picture else stated or json_path.stem,
        size_hw=size_hw,
        records=number_records(raw, problems, json_path),
        image_path=picture,
        image_id=image_id if isinstance(image_id, int | str) else None,
    )


def _stated_size(content: dict[str, Any]) -> tuple[int, int]:
    try:
        return rle_size_hw({"size": [content["image"].get("height"), content["image"].get("width")]})
    except DataError as error:
        raise DataError(f"image height and width: {error}") from error


def _write_content(
    path: Path,
    image_name: str,
    size_hw: tuple[int, int],
    annotations: list[dict[str, Any]],
    image_id: int | str | None,
) -> None:
    image = {
        "image_id": Path(image_name).stem if image_id is None else image_id,
        "width": size_hw[1],
        "height": size_hw[0],
        "file_name": image_name,
    }
    write_text_atomically(path, to_json(path, {"image": image, "annotations": annotations}))


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
