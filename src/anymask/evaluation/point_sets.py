"""Data sets as the point experiment needs them: images by name, each with the masks of its objects, in any layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from anymask.data.annotated import AnnotatedImage
from anymask.data.bsds import read_bsds
from anymask.data.formats import detect_format, read_dataset
from anymask.data.label_maps import read_instance_folders, read_semantic
from anymask.data.sa1b import Annotation, Sa1bFolder, Sample
from anymask.errors import DataError
from anymask.evaluation.truth import TrueObject, TrueSet, open_truth
from anymask.records import MaskRecord

LAYOUTS = ("auto", "sa1b", "coco", "lvis", "yolo", "labelme", "png", "bsds", "instances", "semantic")


class PointSet(Protocol):
    """Images by name, in order; a name is a file's without folders."""

    names: list[str]

    def sample(self, name: str) -> Sample:
        """One image and its objects' masks. Raises DataError, naming the file, where it is broken."""


class Sa1bSet:
    """A folder in SA-1B's layout; each JSON is parsed when its image is asked for."""

    def __init__(self, path: Path) -> None:
        self._folder = Sa1bFolder(path)
        self.names = self._folder.names

    def sample(self, name: str) -> Sample:
        """The image of that file name."""
        return self._folder[self.names.index(name)]


class KeyedSet:
    """Samples made when asked for. The makers are objects, not closures, so that other processes can have a copy."""

    def __init__(self, makers: dict[str, Callable[[], Sample]]) -> None:
        self._makers = makers
        self.names = list(makers)

    def sample(self, name: str) -> Sample:
        """The image of that name."""
        return self._makers[name]()


def open_point_set(path: str | Path, layout: str = "auto", images_dir: str | Path | None = None) -> PointSet:
    """The images of a path in any of `LAYOUTS`.

    coco and lvis: an instances file or a folder that holds one; crowds are no objects. bsds: a folder of .mat files.
    instances: a folder of masks for each image. semantic: label maps, whose connected regions are the objects. The
    rest: see `data.formats`. "auto" tells them apart, label maps excepted, which look like any pictures. Pictures are
    looked for in `images_dir`, else where the layout has them. Raises DataError for another layout, and for a set that
    is broken or has no images.
    """
    path = Path(path)
    if layout not in LAYOUTS:
        raise DataError(f"layout is {layout!r}; allowed: {', '.join(LAYOUTS)}")
    chosen = _detect(path) if layout == "auto" else layout
    if chosen == "sa1b":
        return Sa1bSet(path)
    if chosen in ("coco", "lvis"):
        return _from_truth(path, images_dir)
    readers: dict[str, Callable[..., Iterable[AnnotatedImage]]] = {
        "bsds": read_bsds,
        "instances": read_instance_folders,
        "semantic": read_semantic,
    }
    images = readers[chosen](path, images_dir) if chosen in readers else read_dataset(path, chosen, images_dir)
    makers: dict[str, Callable[[], Sample]] = {}
    for image in images:
        _put(makers, image.file_name, _OfImage(image, path), path)
    if not makers:
        raise DataError(f"{path}: has no images; allowed: a data set with one or more")
    return KeyedSet(makers)


def truth_sha256(sample: Sample) -> str:
    """The digest of an image's masks: predictions are scored against the truth that they were made from."""
    codes = [[list(thing.rle["size"]), _text(thing.rle["counts"])] for thing in sample.annotations]
    return hashlib.sha256(json.dumps(codes).encode()).hexdigest()


def _detect(path: Path) -> str:
    if path.is_dir() and any(path.glob("*.mat")):
        return "bsds"
    try:
        return detect_format(path).name
    except DataError:
        if path.is_dir() and any(path.glob("*/masks/*.png")):
            return "instances"
        raise


@dataclass(frozen=True)
class _OfTruth:
    """Makes the sample of one image of a COCO or LVIS file; crowds are no objects."""

    truth: TrueSet
    key: Any

    def __call__(self) -> Sample:
        image = self.truth.image(self.key)
        things = tuple(
            Annotation(number, thing.rle, thing.area, thing.bbox_xywh, self._facts(thing))
            for number, thing in enumerate(image.objects)
            if not thing.is_crowd
        )
        return Sample(image.require_path(), image.size_hw, things)

    def _facts(self, thing: TrueObject) -> dict[str, Any]:
        category = None if thing.category_id is None else self.truth.categories.get(thing.category_id)
        return {} if category is None else {"category": category.name}


@dataclass(frozen=True)
class _OfImage:
    """Makes the sample of an image that a reader gave; `path` is the set's."""

    image: AnnotatedImage
    path: Path

    def __call__(self) -> Sample:
        if self.image.image_path is None:
            raise DataError(
                f"{self.path}: the picture of {self.image.file_name} was not found; allowed: images_dir where it lies"
            )
        things = tuple(_annotation(record) for record in self.image.records)
        return Sample(self.image.image_path, self.image.size_hw, things)


def _from_truth(path: Path, images_dir: str | Path | None) -> KeyedSet:
    truth = open_truth(path, images_dir)
    makers: dict[str, Callable[[], Sample]] = {}
    for key in truth.keys:
        _put(makers, f"{key}", _OfTruth(truth, key), path)
    return KeyedSet(makers)


def _annotation(record: MaskRecord) -> Annotation:
    facts = dict(record.extra) if record.category is None else {**record.extra, "category": record.category}
    return Annotation(record.id, record.segmentation, float(record.area), record.bbox_xywh, facts)


def _put(makers: dict[str, Callable[[], Sample]], name: str, maker: Callable[[], Sample], path: Path) -> None:
    flat = name.replace("/", "__")  # predictions lie in one folder
    if flat in makers:
        raise DataError(f"{path}: several images have the name {name}; allowed: each its own")
    makers[flat] = maker


def _text(counts: Any) -> Any:
    if isinstance(counts, bytes):
        return counts.decode("ascii")
    return counts if isinstance(counts, str) else [int(run) for run in counts]
