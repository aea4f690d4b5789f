"""Which group an object belongs to: a table of the user's says it, or the data set itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from anymask.data.sa1b import Sample
from anymask.errors import DataError
from anymask.evaluation.tables import Row, read_table

KEY_COLUMNS = ("image", "object")


class Groups(Protocol):
    """The groups of objects, one for each attribute, such as age or category. source: where they come from."""

    source: str
    attributes: list[str]

    def of(self, sample: Sample, name: str, index: int) -> Mapping[str, str] | None:
        """The groups by attribute ("" where one is not known) of the object in that place of an image called `name`.

        None where nothing is known of it.
        """


class TableGroups:
    """Groups from a CSV or JSON file.

    Its column `image` is the image's file name, with or without suffix (its id in a COCO or LVIS file); the column
    `object`, where there is one, is the place of the object in the annotation file, from 0; every other column is an
    attribute. Raises DataError for a table that is broken or contradicts itself.
    """

    def __init__(self, path: str | Path) -> None:
        rows = read_table(path, required=["image"])
        self.source = Path(path).name
        self.attributes = [column for column in rows[0] if column not in KEY_COLUMNS]
        if not self.attributes:
            raise DataError(f"{path}: has no column of groups; allowed: any besides image and object")
        self._rows: dict[tuple[str, int | None], Row] = {}
        for row in rows:
            index = row.get("object", "")
            if index and not index.isdecimal():
                raise DataError(f"{path}: object is {index!r}; allowed: its place in the annotation file, from 0")
            key = (Path(row["image"]).stem, int(index) if index else None)
            if key in self._rows and self._rows[key] != row:
                raise DataError(f"{path}: {row['image']!r} comes twice with other groups; allowed: one row each")
            self._rows[key] = row

    def of(self, sample: Sample, name: str, index: int) -> Mapping[str, str] | None:
        """See `Groups`."""
        stem = Path(name).stem
        return self._rows.get((stem, index)) or self._rows.get((stem, None))


class TruthGroups:
    """Groups from what the data set itself says of each mask under `key`, such as "category"."""

    def __init__(self, key: str) -> None:
        self.source = f"the data set's {key}"
        self.attributes = [key]

    def of(self, sample: Sample, name: str, index: int) -> Mapping[str, str] | None:
        """See `Groups`."""
        value = sample.annotations[index].extra.get(self.attributes[0])
        return None if value is None else {self.attributes[0]: str(value)}
