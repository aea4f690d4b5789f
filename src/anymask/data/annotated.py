"""One image and its masks as every file format gives and takes them, and how readers tell what is broken."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from anymask.errors import AnymaskError, DataError
from anymask.geometry.rle import Rle, encode_rle, rle_size_hw
from anymask.records import MaskRecord

# Formats in which every mask has a class write this where none is known, and read it back as none.
UNNAMED = "object"

_FACT_KEYS = ("predicted_iou", "stability_score", "point_coords", "crop_box", "category", "parent_id")


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its masks, whatever file they come from or go to.

    file_name: relative to the data set's pictures, with forward slashes. image_path: where the picture lies,
    None where it was not found. image_id: the file's own number or name for it. Raises DataError for a file
    name that is empty, absolute or climbs out by "..", for a size under 1x1, for records of another size or
    the same id, and for a parent that is not among them.
    """

    file_name: str
    size_hw: tuple[int, int]
    records: tuple[MaskRecord, ...] = ()
    image_path: Path | None = None
    image_id: int | str | None = None

    def __post_init__(self) -> None:
        name = self.file_name
        parts = PurePosixPath(name).parts if isinstance(name, str) else ()
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise DataError(f"file_name is {name!r}; allowed: a relative path with forward slashes")
        rle_size_hw({"size": list(self.size_hw)})
        for record in self.records:
            if record.size_hw != self.size_hw:
                raise DataError(f"mask {record.id} is {record.size_hw}; allowed: the image's {self.size_hw}")
        ids = {record.id for record in self.records}
        if len(ids) != len(self.records):
            raise DataError(f"records have {len(ids)} ids for {len(self.records)} masks; allowed: each its own")
        for record in self.records:
            if record.parent_id is not None and record.parent_id not in ids:
                raise DataError(f"mask {record.id} has parent_id {record.parent_id}; allowed: the id of another mask")

    @property
    def flat_name(self) -> str:
        """The file name without folders, for formats that keep everything in one."""
        return PurePosixPath(self.file_name).name

    @property
    def stem(self) -> str:
        """The flat name without its suffix."""
        return PurePosixPath(self.file_name).stem


@dataclass
class Problems:
    """What readers find wrong: raised at once, or with `collect` written down so that reading goes on.

    `found` has one line for each problem. With `collect`, readers also compare what a file says about a mask
    (area, box) with the mask itself, which reading alone passes over.
    """

    collect: bool = False
    found: list[str] = field(default_factory=list)

    @contextmanager
    def at(self, place: str | Path) -> Iterator[None]:
        """Name the place in any AnymaskError that the block raises; with `collect` it ends here."""
        try:
            yield
        except AnymaskError as error:
            named = str(error).startswith(str(place))  # by a block within this one
            message = " ".join((str(error) if named else f"{place}: {error}").split())
            if not self.collect:
                raise DataError(message) from error
            self.found.append(message)


@dataclass(frozen=True)
class RawRecord:
    """A record as a file has it: its id and its parent's (anything, None for none) are still to be settled."""

    id: Any
    parent_id: Any
    record: MaskRecord


def raw_record(id: Any, rle: Rle, facts: Mapping[str, Any]) -> RawRecord:
    """A record of a code and the facts of `parse_facts`; plain runs become text.

    Raises DataError when the code is broken.
    """
    own = {name: value for name, value in facts.items() if name != "parent_id"}
    record = MaskRecord.from_rle(0, rle, **own)
    if not isinstance(rle["counts"], str):
        record = replace(record, segmentation=encode_rle(record.mask))
    return RawRecord(id, facts.get("parent_id"), record)


def parse_facts(entry: Mapping[str, Any], own_keys: Collection[str]) -> dict[str, Any]:
    """The fields of a MaskRecord that SA-1B's keys in a file's `entry` give; other keys become `extra`.

    `own_keys` are what the format itself uses. Raises DataError for a value of the wrong kind.
    """
    facts: dict[str, Any] = {}
    for key in ("predicted_iou", "stability_score"):
        if entry.get(key) is not None:
            facts[key] = _number(entry[key], key)
    if (points := entry.get("point_coords")) is not None:
        if not isinstance(points, list):
            raise DataError(f"point_coords is {points!r}; allowed: a list of points [x, y]")
        facts["point_coords"] = [list(_numbers(point, 2, "point_coords")) for point in points]
    if entry.get("crop_box") is not None:
        facts["crop_box_xywh"] = _numbers(entry["crop_box"], 4, "crop_box")
    if entry.get("category") is not None:
        if not isinstance(entry["category"], str):
            raise DataError(f"category is {entry['category']!r}; allowed: a name")
        facts["category"] = entry["category"]
    if entry.get("parent_id") is not None:
        facts["parent_id"] = entry["parent_id"]
    facts["extra"] = {key: value for key, value in entry.items() if key not in _FACT_KEYS and key not in own_keys}
    return facts


def number_records(raw: Sequence[RawRecord], problems: Problems, place: str | Path) -> tuple[MaskRecord, ...]:
    """The records of one image, their ids made distinct whole numbers and parents following them.

    Ids stay when they are that already; otherwise the masks are numbered from 1 in their order. An id that
    comes twice and a parent that is not there go to `problems`.
    """
    ids = whole_ids([entry.id for entry in raw])
    named = [entry for entry in raw if entry.id is not None]
    new_id_of = {_key(entry.id): new for entry, new in zip(raw, ids, strict=True) if entry.id is not None}
    with problems.at(place):
        if len(new_id_of) != len(named):
            raise DataError("several masks have the same id; allowed: each its own")
    records = []
    for entry, new_id in zip(raw, ids, strict=True):
        parent_id = None if entry.parent_id is None else new_id_of.get(_key(entry.parent_id))
        with problems.at(f"{place}: mask {new_id if entry.id is None else entry.id}"):
            if entry.parent_id is not None and parent_id is None:
                raise DataError(f"parent_id is {entry.parent_id!r}; allowed: the id of another mask of the image")
        records.append(replace(entry.record, id=new_id, parent_id=parent_id))
    return tuple(records)


def whole_ids(ids: Sequence[Any]) -> list[int]:
    """The ids themselves if all are distinct whole numbers, else 1, 2, 3 and so on."""
    are_whole = all(isinstance(value, int) and not isinstance(value, bool) for value in ids)
    return list(ids) if are_whole and len(set(ids)) == len(ids) else list(range(1, len(ids) + 1))


def check_stated(
    area: float,
    bbox_xywh: Sequence[float],
    record: MaskRecord,
    area_slack: float = 0.0,
) -> None:
    """Raise DataError where a file's area or box is not the mask's own, within `area_slack` and one pixel.

    One pixel for boxes: the reference's generator measures width and height to the last pixel instead of past
    it, and SA-1B's files follow it.
    """
    if not abs(area - record.area) <= area_slack:  # also true of NaN
        raise DataError(f"area is {area:g}; the mask has {record.area} pixels")
    x, y, width, height = bbox_xywh
    own_x, own_y, own_width, own_height = record.bbox_xywh
    sides = (x - own_x, y - own_y, x + width - own_x - own_width, y + height - own_y - own_height)
    if not all(abs(side) <= 1 for side in sides):
        raise DataError(f"bbox is {list(bbox_xywh)}; the mask's is {list(record.bbox_xywh)}")


def _key(value: Any) -> Any:
    """An id as a dictionary's key, whatever JSON put there."""
    return value if isinstance(value, int | str | float) else repr(value)


def _number(value: Any, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise DataError(f"{name} is {value!r}; allowed: a finite number")
    return float(value)


def _numbers(values: Any, count: int, name: str) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or len(values) != count:
        raise DataError(f"{name} is {values!r}; allowed: {count} numbers")
    return tuple(_number(value, name) for value in values)
