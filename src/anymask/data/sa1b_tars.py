"""SA-1B as it is handed out: tars of NAME.jpg and NAME.json, read in place, any sample at any time.

Each tar is walked once for an index of where its members lie (a small memory-mapped file in the cache folder); after
that a sample is two reads at known places. So nothing is unpacked, memory does not grow with the number of images, and
a killed training run sees the very samples again that it would have seen.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from anymask.data.images import read_image
from anymask.data.sa1b import Sample, parse_annotations
from anymask.errors import DataError, ImageError

INDEX_VERSION = 1
PICTURES = (".jpg", ".jpeg", ".png")
# Where in its tar a sample's picture and JSON lie: bytes from the start, and how many.
INDEX_TYPE = np.dtype([("picture_at", "<i8"), ("picture_size", "<i8"), ("json_at", "<i8"), ("json_size", "<i8")])


@dataclass(frozen=True)
class TarSample(Sample):
    """A sample whose picture lies inside a tar; `image_path` is TAR/NAME, for messages alone."""

    tar: Path
    picture_at: int
    picture_size: int

    def encoded(self) -> bytes:
        return _read_at(self.tar, self.picture_at, self.picture_size)

    def read_image(self, scale: float = 1.0) -> np.ndarray:
        """HxWx3 uint8 RGB, at least `scale` of the full size: a JPEG comes at 1/2, 1/4 or 1/8 where that is enough.

        Raises ImageError when unreadable, DataError when its size is not `size_hw`.
        """
        try:
            picture = Image.open(io.BytesIO(self.encoded()))
        except UnidentifiedImageError as error:
            raise ImageError(f"{self.image_path}: is not an image ({error})") from error
        height, width = self.size_hw
        if picture.size != (width, height):
            raise DataError(
                f"{self.image_path}: image size is {self.size_hw} (h, w); the file has {picture.size[::-1]}"
            )
        picture.draft("RGB", (max(1, int(width * scale)), max(1, int(height * scale))))
        try:
            return read_image(picture)
        except ImageError as error:
            raise ImageError(f"{self.image_path}: {error}") from error


class Sa1bTars:
    """The samples of all tars in a folder, in the order of tars and members.

    `hold_out` = N keeps every Nth sample apart: those alone with part "val", the others with part "train"; None keeps
    all. Raises DataError for a folder without tars, or a tar that is broken or holds no sample.
    """

    def __init__(
        self, folder: str | Path, index_folder: str | Path, hold_out: int | None = None, part: str = "train"
    ) -> None:
        self.paths = sorted(Path(folder).glob("*.tar"))
        if not self.paths:
            raise DataError(f"{folder}: holds no tar; allowed: a folder of SA-1B's sa_000000.tar and so on")
        if hold_out is not None and hold_out < 2:
            raise DataError(f"hold_out={hold_out}; allowed: None, or at least 2")
        self.indices = [tar_index(path, Path(index_folder)) for path in self.paths]
        self.ends = list(accumulate(len(index) for index in self.indices))
        self.hold_out, self.part = hold_out, part

    def __len__(self) -> int:
        total = self.ends[-1]
        if self.hold_out is None:
            return total
        held_out = -(-total // self.hold_out)
        return held_out if self.part == "val" else total - held_out

    def __getitem__(self, number: int) -> TarSample:
        if not 0 <= number < len(self):
            raise IndexError(number)
        if self.hold_out is not None:  # numbers 0, N, 2N ... are held out
            number = number * self.hold_out if self.part == "val" else number + number // (self.hold_out - 1) + 1
        tar = bisect.bisect_right(self.ends, number)
        entry = self.indices[tar][number - (self.ends[tar - 1] if tar else 0)]
        path, at = self.paths[tar], int(entry["json_at"])
        origin = path / f"member at {at}"
        try:
            content = json.loads(_read_at(path, at, int(entry["json_size"])))
        except ValueError as error:
            raise DataError(f"{origin}: is not readable as JSON ({error})") from error
        size_hw, annotations = parse_annotations(content, origin)
        name = str(content["image"].get("file_name", f"member at {int(entry['picture_at'])}"))
        return TarSample(path / name, size_hw, annotations, path, int(entry["picture_at"]), int(entry["picture_size"]))

    def __iter__(self) -> Iterator[TarSample]:
        return (self[number] for number in range(len(self)))


def tar_index(path: Path, index_folder: Path) -> np.ndarray:
    """Where each sample of a tar lies: a memory-mapped array of `INDEX_TYPE`, made and kept when first asked for."""
    facts = path.stat()
    key = f"{INDEX_VERSION} {path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    stored = index_folder / f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if not stored.exists():
        index = _walk(path)
        index_folder.mkdir(parents=True, exist_ok=True)
        partial = stored.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.save(file, index)
        os.replace(partial, stored)
    loaded: np.ndarray = np.load(stored, mmap_mode="r")
    return loaded


def _walk(path: Path) -> np.ndarray:
    pictures: dict[str, tuple[int, int]] = {}
    records: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if member.isfile() and not name.name.startswith("."):
                    found = records if name.suffix == ".json" else pictures if name.suffix in PICTURES else None
                    if found is not None:
                        found[str(name.with_suffix(""))] = (member.offset_data, member.size)
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path}: cannot be read as an uncompressed tar ({error})") from error
    entries = [(*pictures[stem], *place) for stem, place in records.items() if stem in pictures]
    if not entries:
        raise DataError(f"{path}: holds no sample; allowed: NAME.jpg and NAME.json side by side")
    return np.array(entries, dtype=INDEX_TYPE)


def _read_at(path: Path, at: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(at)
        found = file.read(size)
    if len(found) != size:
        raise DataError(f"{path}: ends before byte {at + size}; allowed: a tar that has not changed since its index")
    return found
