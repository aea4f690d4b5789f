"""Everything that is wrong with a data set, a line for each, without stopping at the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anymask.data.annotated import AnnotatedImage, Problems
from anymask.data.formats import detect_format, find_format
from anymask.data.images import image_size_hw, read_image
from anymask.errors import AnymaskError, DataError


@dataclass(frozen=True)
class Validation:
    """What was found: the format's name, how many images and masks could be read, and the problems."""

    format: str
    images: int
    masks: int
    problems: list[str]

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)


def validate_dataset(
    path: str | Path,
    format_name: str = "auto",
    images_dir: str | Path | None = None,
    decode_pictures: bool = False,
    on_image: Callable[[AnnotatedImage], None] | None = None,
) -> Validation:
    """Read a whole data set and say what is broken, each problem in one line that names file and place.

    Found are: files that cannot be parsed, broken codes and polygons, areas and boxes that are not the mask's
    own, empty masks, ids that come twice, parents that are not there, missing and unreadable pictures and
    ones of another size. Of pictures only headers are read, unless `decode_pictures`. A data set without any
    image is a problem. Raises DataError when the path is in no known format.
    """
    chosen = detect_format(path) if format_name == "auto" else find_format(format_name)
    problems = Problems(collect=True)
    image_count = mask_count = 0
    try:
        for image in chosen.read(path, images_dir, problems):
            if on_image is not None:
                on_image(image)
            image_count += 1
            mask_count += len(image.records)
            _check_masks(image, f"{path}: {image.file_name}", problems)
            _check_picture(image, f"{path}: {image.file_name}", problems, decode_pictures)
    except AnymaskError as error:  # the file that holds everything else is broken
        problems.found.append(" ".join(str(error).split()))
    if image_count == 0 and not problems.found:
        problems.found.append(f"{path}: has no images")
    return Validation(chosen.name, image_count, mask_count, problems.found)


def _check_masks(image: AnnotatedImage, place: str, problems: Problems) -> None:
    for record in image.records:
        with problems.at(f"{place}: mask {record.id}"):
            if record.area == 0:
                raise DataError("has no pixels")


def _check_picture(image: AnnotatedImage, place: str, problems: Problems, decode: bool) -> None:
    with problems.at(place):
        if image.image_path is None:
            raise DataError("its picture was not found")
        size_hw = image_size_hw(image.image_path)
        if size_hw != image.size_hw:
            raise DataError(f"its picture is {size_hw} (h, w); the masks are {image.size_hw}")
        if decode:
            read_image(image.image_path)
