"""The data sets of the paper's point experiment, and which of them, or others, lie in a folder."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from anymask.data.sa1b import SA1B_IMAGE_SUFFIXES, is_sa1b, read_json
from anymask.errors import DataError


@dataclass(frozen=True)
class KnownSet:
    """One of the paper's 23 sets (table 7).

    images and masks: the paper's sample of it. masks_are: instances, panoptic or semantic. home, layout and terms are
    None where they are not known for certain.
    """

    id: str
    name: str
    shows: str
    masks_are: str
    split: str
    images: int
    masks: int
    home: str | None = None
    layout: str | None = None
    terms: str | None = None


def known_sets() -> list[KnownSet]:
    """The manifest's sets, in the paper's order."""
    content = tomllib.loads(files("anymask.evaluation").joinpath("datasets.toml").read_text(encoding="utf-8"))
    return [KnownSet(id=key, **entry) for key, entry in content.items()]


def find_known_sets(root: str | Path) -> dict[str, Path]:
    """Where the manifest's sets lie: by id, the folder of that name (in any case) in `root`.

    Raises DataError when `root` is not a folder.
    """
    folders = {entry.name.lower(): entry for entry in _folders(Path(root))}
    return {known.id: folders[known.id] for known in known_sets() if known.id in folders}


def find_sets(root: str | Path) -> list[Path]:
    """Folders in `root` and one below that are in SA-1B's layout, sorted: `anymask evaluate points` takes them so.

    Raises DataError when `root` is not a folder.
    """
    above = _folders(Path(root))
    return [folder for folder in sorted([*above, *(inner for one in above for inner in _folders(one))]) if _has(folder)]


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; allowed: a folder of data sets")
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _has(folder: Path) -> bool:
    for file in sorted(folder.glob("*.json")):
        if any(file.with_suffix(suffix).is_file() for suffix in SA1B_IMAGE_SUFFIXES):
            return is_sa1b(read_json(file))
    return False
