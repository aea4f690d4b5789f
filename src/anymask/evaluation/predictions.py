"""Predictions as files: every suite writes what a model answered first and scores the files after.

A folder holds the answers to one data set: `config.json` (who was judged, on what, with which settings) and
`images/NAME.json` (or another suffix), one per image, each written whole or not at all. A run that was killed
goes on where it stopped; a run with another configuration is refused, since its answers must not mix with these.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from anymask.data.sa1b import read_json, write_text_atomically
from anymask.errors import DataError

T = TypeVar("T")


class PredictionFolder:
    """The predictions in one folder; `create` makes or continues one, `open` reads one.

    `suffix` is that of the files of answers; `write` and `read` are for JSON.
    """

    def __init__(self, path: Path, config: dict[str, Any], suffix: str = ".json") -> None:
        self.path = path
        self.config = config
        self.suffix = suffix

    @property
    def config_path(self) -> Path:
        """The file that says how these predictions were made."""
        return self.path / "config.json"

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], suffix: str = ".json") -> PredictionFolder:
        """A folder for this configuration (JSON values), new or already begun.

        Raises DataError, naming the keys that differ, when it was begun with another configuration.
        """
        folder = cls(Path(path), json.loads(json.dumps(config, allow_nan=False)), suffix)
        if folder.config_path.exists():
            folder._refuse_another_config(read_json(folder.config_path))
            return folder
        if any((folder.path / "images").glob(f"*{suffix}")):
            raise DataError(f"{folder.config_path}: no such file, though predictions lie beside it")
        (folder.path / "images").mkdir(parents=True, exist_ok=True)
        write_text_atomically(folder.config_path, json.dumps(folder.config, indent=1))
        return folder

    @classmethod
    def open(cls, path: str | Path) -> PredictionFolder:
        """The folder that an earlier run left. Raises DataError when it has no readable configuration."""
        config_path = Path(path) / "config.json"
        config = read_json(config_path)
        if not isinstance(config, dict):
            raise DataError(f"{config_path}: holds a {type(config).__name__}; allowed: an object")
        return cls(Path(path), config)

    def image_path(self, image_name: str) -> Path:
        """Where the answers to one image (named by its file) lie or will lie."""
        return self.path / "images" / f"{Path(image_name).stem}{self.suffix}"

    def has(self, image_name: str) -> bool:
        """Whether this image is done."""
        return self.image_path(image_name).exists()

    def write(self, image_name: str, content: Mapping[str, Any]) -> None:
        """Put down one image's answers. Raises DataError when a number in them is NaN or infinite."""
        path = self.image_path(image_name)
        try:
            text = json.dumps(content, allow_nan=False)
        except ValueError as error:
            raise DataError(f"{path}: the answers hold NaN or infinity ({error})") from error
        write_text_atomically(path, text)

    def read(self, image_name: str) -> Any:
        """One image's answers. Raises DataError, naming the file, when they are missing or broken."""
        return read_json(self.image_path(image_name))

    def _refuse_another_config(self, found: Any) -> None:
        there, here = dict(_leaves(found)), dict(_leaves(self.config))
        differing = sorted(key for key in there | here if there.get(key) != here.get(key))
        if differing:
            pairs = "; ".join(f"{key} was {there.get(key)!r}, now {here.get(key)!r}" for key in differing)
            raise DataError(
                f"{self.config_path}: the predictions there were made otherwise ({pairs}); "
                "allowed: the same configuration, or another output folder"
            )


def evenly_spaced(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` of the items, spread evenly over them, first and last included; all without a limit.

    Neighbours in a data set are often alike (frames of a drive, one annotator's masks), so the first few
    would be a poor sample.
    """
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, limit).round()]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested object as dotted keys and their values."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
