"""YOLO segmentation text: a line for each mask, its class and one polygon in fractions of the image.

Layout: `images/NAME.jpg`, `labels/NAME.txt`, and the class names in `data.yaml` and `classes.txt` (which
counts first). A line holds one polygon, so outlines and holes of a mask are joined into one by bridges
without width. Six decimals keep the polygon's corners on their pixel edges up to 100,000 pixels a side: under
the even-odd rule with pixel centres, as this reader fills, masks come back exactly unless a tolerance asks
for fewer corners. Tools that also draw the polygon's line make masks up to one pixel wider. Lost: ids,
scores, parents, and empty masks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from anymask.data.annotated import UNNAMED, AnnotatedImage, Problems, number_records, raw_record
from anymask.data.images import image_size_hw, list_images
from anymask.data.sa1b import write_text_atomically
from anymask.errors import DataError
from anymask.geometry.polygons import (
    MIN_SIMPLIFIED_IOU,
    join_rings,
    mask_to_outlines,
    polygons_to_rle,
    rle_iou,
    simplify_ring,
)
from anymask.geometry.rle import Rle
from anymask.records import MaskRecord

CLASSES_NAME = "classes.txt"
YAML_NAME = "data.yaml"
_SPLITS = ("train", "val", "test")


def read_yolo(
    folder: str | Path, images_dir: str | Path | None = None, problems: Problems | None = None
) -> Iterator[AnnotatedImage]:
    """The images of a folder in YOLO's layout, sorted; one without a label file has no masks.

    Labels lie in `labels` beside `images` (any folders below them alike), or beside the pictures. A class
    named "object" is no category; without any list of names the class's number is its name. Raises DataError,
    naming file and line, for what is broken (boxes in place of polygons too), or collects it in `problems`.
    """
    problems = problems or Problems()
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; allowed: a folder with images/ and labels/")
    names = _read_names(folder)
    pictures_dir = Path(images_dir) if images_dir is not None else _subfolder(folder, "images")
    labels_dir = _subfolder(folder, "labels")
    pictures = list_images(pictures_dir, recursive=True)
    with_picture = {path.relative_to(pictures_dir).with_suffix(".txt") for path in pictures}
    for label_path in sorted(labels_dir.rglob("*.txt")):
        is_stray = label_path.relative_to(labels_dir) not in with_picture and label_path.name != CLASSES_NAME
        with problems.at(label_path):
            if is_stray:
                raise DataError(f"no image of its name in {pictures_dir}, which gives the size")
    for picture in pictures:
        name = picture.relative_to(pictures_dir)
        image = None
        with problems.at(picture):
            size_hw = image_size_hw(picture)
            label_path = (labels_dir / name).with_suffix(".txt")
            records = _read_labels(label_path, size_hw, names, problems) if label_path.exists() else ()
            image = AnnotatedImage(name.as_posix(), size_hw, records, picture)
        if image is not None:
            yield image


def write_yolo(
    folder: str | Path,
    images: Iterable[AnnotatedImage],
    tolerance: float = 0.0,
    class_names: Sequence[str] = (),
) -> None:
    """Write labels/NAME.txt for each image, and the class names at the end.

    Classes are numbered as they appear, after `class_names` or those already listed in the folder; masks
    without a category are of class "object". `tolerance` in pixels thins polygons out; 0 is exact. Empty
    masks are left out. Pictures are not copied. Raises DataError when two images would share a label file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    listed = dict(enumerate(class_names)) or _read_names(folder)
    classes = {name: index for index, name in listed.items()}
    written: dict[PurePosixPath, str] = {}
    for image in images:
        label = PurePosixPath(image.file_name).with_suffix(".txt")
        if label in written:
            raise DataError(f"{image.file_name} and {written[label]} would share labels/{label}")
        written[label] = image.file_name
        lines = []
        for record in image.records:
            ring = _mask_ring(record, tolerance)
            if ring is not None:
                number = classes.setdefault(record.category or UNNAMED, max(classes.values(), default=-1) + 1)
                fractions = ring / np.array([image.size_hw[1], image.size_hw[0]])
                lines.append(" ".join([str(number), *(f"{value:.6f}" for value in fractions.ravel())]))
        path = folder / "labels" / label
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, "".join(line + "\n" for line in lines))
    _write_names(folder, classes, [PurePosixPath(name) for name in written.values()])


def _mask_ring(record: MaskRecord, tolerance: float) -> np.ndarray | None:
    """One ring for the whole mask, its simplified one where that is close enough; None for an empty mask."""
    rings = [ring for region in mask_to_outlines(record.mask) for ring in region]
    if not rings:
        return None
    exact = join_rings(rings)
    if tolerance <= 0:
        return exact
    simple = join_rings([simplify_ring(ring, tolerance) for ring in rings])
    codes = [polygons_to_rle([ring], record.size_hw) for ring in (simple, exact)]
    return simple if rle_iou(*codes) >= MIN_SIMPLIFIED_IOU else exact


def _read_labels(
    path: Path, size_hw: tuple[int, int], names: dict[int, str], problems: Problems
) -> tuple[MaskRecord, ...]:
    raw = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is not readable as text ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        with problems.at(f"{path}: line {number}"):
            class_index, rle = _parse_line(line, size_hw)
            if names and class_index not in names:
                raise DataError(f"class is {class_index}; allowed: one of the {len(names)} that are named")
            name = names.get(class_index, str(class_index))
            raw.append(raw_record(None, rle, {"category": None if name == UNNAMED else name}))
    return number_records(raw, problems, path)


def _parse_line(line: str, size_hw: tuple[int, int]) -> tuple[int, Rle]:
    first, *rest = line.split()
    try:
        class_index, values = int(first), np.array([float(word) for word in rest])
    except ValueError as error:
        raise DataError(f"is not a class's number and fractions ({error})") from error
    if class_index < 0:
        raise DataError(f"class is {class_index}; allowed: 0 and up")
    if len(values) == 4:
        raise DataError("holds a box, of which no mask can be made; allowed: a polygon")
    if len(values) < 6 or len(values) % 2:
        raise DataError(f"has {len(values)} numbers after the class; allowed: x y of three corners or more")
    return class_index, polygons_to_rle([values.reshape(-1, 2) * [size_hw[1], size_hw[0]]], size_hw)


def _subfolder(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _read_names(folder: Path) -> dict[int, str]:
    """The class names from classes.txt, else from data.yaml (or .yml); empty where there is none."""
    path = folder / CLASSES_NAME
    if path.is_file():
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: is not readable as text ({error})") from error
        return {index: name for index, name in enumerate(names) if name}
    for path in (folder / YAML_NAME, folder / "data.yml"):
        if path.is_file():
            return _names_of_yaml(path)
    return {}


def _names_of_yaml(path: Path) -> dict[int, str]:
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise DataError(
            f"{path}: PyYAML is needed to read it (pip install pyyaml); allowed too: the names in {CLASSES_NAME}"
        ) from error
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: is not readable as YAML ({' '.join(str(error).split())})") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(index, int) for index in names):
        raise DataError(f"{path}: names is {names!r}; allowed: a list of names, or number: name")
    return {index: str(name) for index, name in names.items()}


def _write_names(folder: Path, classes: dict[str, int], files: Sequence[PurePosixPath]) -> None:
    if bad := [name for name in classes if len(name.splitlines()) != 1]:
        raise DataError(f"category is {bad[0]!r}; allowed in YOLO's list of classes: one line, not empty")
    splits = sorted({name.parts[0] for name in files if len(name.parts) > 1} & set(_SPLITS))
    pictures = {split: f"images/{split}" for split in splits}
    # Training wants both keys, even where the folder is not divided.
    pictures = {"train": "images", "val": "images"} | pictures if len(splits) < 2 else pictures
    lines = [*(f"{key}: {value}" for key, value in pictures.items()), "names:"]
    lines += [f"  {index}: {json.dumps(name)}" for name, index in classes.items()]
    if not classes:
        lines[-1] = "names: {}"
    write_text_atomically(folder / YAML_NAME, "path: .\n" + "\n".join(lines) + "\n")
    name_of = {index: name for name, index in classes.items()}
    rows = [name_of.get(index, "") for index in range(max(name_of, default=-1) + 1)]  # empty for unused numbers
    write_text_atomically(folder / CLASSES_NAME, "".join(f"{name}\n" for name in rows))
