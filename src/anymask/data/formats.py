"""The file formats by name: which one a path is in, reading any of them, and from one to another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anymask.data.annotated import AnnotatedImage, Problems
from anymask.data.coco import is_coco, read_coco, write_coco
from anymask.data.images import read_image
from anymask.data.labelme import is_labelme, read_labelme, write_labelme
from anymask.data.png import png_stems, read_png, write_overlay, write_png
from anymask.data.sa1b import is_sa1b, read_json, read_sa1b, write_sa1b_folder
from anymask.data.yolo import CLASSES_NAME, YAML_NAME, read_yolo, write_yolo
from anymask.errors import DataError

Reader = Callable[[str | Path, str | Path | None, Problems | None], Iterator[AnnotatedImage]]
Pictures = Literal["copy", "link", "none"]


@dataclass(frozen=True)
class Format:
    """One file format: `read(path, images_dir, problems)`, `write(folder, images, **options)`.

    options: the names of what its writer may be asked for. pictures: the subfolder its pictures lie in, ""
    for beside the annotations, where names lose their folders.
    """

    name: str
    read: Reader
    write: Callable[..., None]
    options: frozenset[str] = frozenset()
    pictures: str = ""

    def picture_name(self, image: AnnotatedImage) -> str:
        """Where an image's picture belongs, relative to the folder of the data set."""
        return f"{self.pictures}/{image.file_name}" if self.pictures else image.flat_name


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("sa1b", read_sa1b, write_sa1b_folder),
        Format("coco", read_coco, write_coco, frozenset({"segmentation", "tolerance"}), "images"),
        Format("yolo", read_yolo, write_yolo, frozenset({"tolerance"}), "images"),
        Format("png", read_png, write_png),
        Format("labelme", read_labelme, write_labelme, frozenset({"tolerance"})),
    )
}


def find_format(name: str) -> Format:
    """The format of a name. Raises DataError for another name, with those that there are."""
    if name not in FORMATS:
        raise DataError(f"format is {name!r}; allowed: {', '.join(FORMATS)}")
    return FORMATS[name]


def detect_format(path: str | Path) -> Format:
    """The format that a file or folder is in, by its files' names and the first JSON that says what it is.

    Raises DataError when nothing there is known.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() == ".json":  # the only format in one file, whose reader says if it is not that
            return FORMATS["coco"]
        raise DataError(f"{path}: is no COCO file; allowed: that, or the folder of a data set")
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    has_labels = (path / "labels").is_dir() and (path / "images").is_dir()
    if has_labels or any((path / name).is_file() for name in (YAML_NAME, "data.yml", CLASSES_NAME)):
        return FORMATS["yolo"]
    if png_stems(path):
        return FORMATS["png"]
    tests = {"sa1b": is_sa1b, "labelme": is_labelme, "coco": is_coco}
    for file in sorted([*path.glob("*.json"), *(path / "annotations").glob("*.json")]):
        content = read_json(file)
        for name, is_format in tests.items():
            if is_format(content):
                return FORMATS[name]
    raise DataError(f"{path}: is in no known format; allowed: {', '.join(FORMATS)}, or say which with --from")


def read_dataset(
    path: str | Path,
    format_name: str = "auto",
    images_dir: str | Path | None = None,
    problems: Problems | None = None,
) -> Iterator[AnnotatedImage]:
    """The images of a data set in any format, one at a time; pictures are looked for in `images_dir` too.

    Raises DataError, naming the file, for what is broken, or collects it in `problems`.
    """
    chosen = detect_format(path) if format_name == "auto" else find_format(format_name)
    return chosen.read(path, images_dir, problems)


def write_dataset(
    folder: str | Path,
    images: Iterable[AnnotatedImage],
    format_name: str,
    pictures: Pictures = "copy",
    overlays: bool = False,
    **options: Any,
) -> None:
    """Write images in a format, with their pictures copied, linked (hard, where the disk can) or left out.

    `overlays` draws each into `overlays/NAME.jpg`. `options` that are None are not passed on. Raises
    DataError for an option that the format does not have, and for a picture that is wanted and not there.
    """
    chosen = find_format(format_name)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in chosen.options:
            having = ", ".join(entry.name for entry in FORMATS.values() if name in entry.options)
            raise DataError(f"{name} is nothing that {chosen.name} files have; allowed with: {having}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    chosen.write(folder, _with_pictures(folder, images, chosen, pictures, overlays), **given)


def convert_dataset(
    source: str | Path,
    target: str | Path,
    to: str,
    format_name: str = "auto",
    images_dir: str | Path | None = None,
    overwrite: bool = False,
    on_image: Callable[[AnnotatedImage], None] | None = None,
    **options: Any,
) -> None:
    """Read a data set in one format and write it in another; `options` as for `write_dataset`.

    Raises DataError when `target` holds files and `overwrite` is not set, or lies where the source does.
    """
    source, target = Path(source), Path(target)
    if target.resolve() in (
        source.resolve(),
        source.resolve().parent if source.is_file() else source.resolve(),
    ):
        raise DataError(f"{target}: is where the source lies; allowed: another folder")
    if target.exists() and not target.is_dir():
        raise DataError(f"{target}: is a file; allowed: a folder")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise DataError(f"{target}: is not empty; allowed: a new folder, or --overwrite")
    images = read_dataset(source, format_name, images_dir)
    write_dataset(target, _seen(images, on_image), to, **options)


def _seen(
    images: Iterable[AnnotatedImage], on_image: Callable[[AnnotatedImage], None] | None
) -> Iterator[AnnotatedImage]:
    for image in images:
        if on_image is not None:
            on_image(image)
        yield image


def _with_pictures(
    folder: Path, images: Iterable[AnnotatedImage], chosen: Format, pictures: Pictures, overlays: bool
) -> Iterator[AnnotatedImage]:
    """The images as they come, each with its picture put in place before its masks are written."""
    if pictures not in ("copy", "link", "none"):
        raise DataError(f"pictures is {pictures!r}; allowed: copy, link or none")
    for image in images:
        if image.image_path is None and (pictures != "none" or overlays):
            raise DataError(
                f"{image.file_name}: the picture was not found; allowed: --images-dir where it lies, or --pictures none"
            )
        if pictures != "none" and image.image_path is not None:
            _place(image.image_path, folder / chosen.picture_name(image), pictures == "link")
        if overlays and image.image_path is not None:
            path = (folder / "overlays" / image.file_name).with_suffix(".jpg")
            write_overlay(path, image, read_image(image.image_path), scores=True)
        yield image


def _place(source: Path, target: Path, linked: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        if target.samefile(source):
            return
        target.unlink()
    if linked:
        try:
            os.link(source, target)
            return
        except OSError:  # another disk, or one that has no hard links
            pass
    shutil.copyfile(source, target)
