"""COCO instance files: one JSON for a whole folder of pictures.

Masks are run-length codes (exact), or polygons on request. COCO's polygons cannot have holes: a mask with a
hole stays a code, which every reader of COCO takes in any annotation. Polygons are exact as well, under
COCO's own rasteriser, unless a tolerance asks for fewer corners. Facts that COCO has no key for
(predicted_iou, stability_score, point_coords, crop_box, parent_id) ride along under SA-1B's names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anymask.data.annotated import (
    UNNAMED,
    AnnotatedImage,
    Problems,
    RawRecord,
    check_stated,
    number_records,
    parse_facts,
    raw_record,
    whole_ids,
)
from anymask.data.sa1b import read_json, to_json, write_text_atomically
from anymask.errors import DataError
from anymask.geometry.polygons import mask_to_outlines, polygons_to_rle, simplify_ring
from anymask.geometry.rle import Rle, rle_size_hw
from anymask.records import MaskRecord

FILE_NAME = "annotations.json"
_OWN_KEYS = ("id", "image_id", "category_id", "category", "segmentation", "area", "bbox")


def read_coco(
    path: str | Path, images_dir: str | Path | None = None, problems: Problems | None = None
) -> Iterator[AnnotatedImage]:
    """The images of one COCO file (or of a folder that holds one), in the file's order.

    Pictures are looked for in `images_dir`, else in the usual places: beside the file, in `images`, in a
    folder named like the file without "instances_". Areas and boxes are the masks' own; a category of the
    name "object" is no category. Raises DataError, naming the file, for what is broken, or collects it in
    `problems`.
    """
    problems = problems or Problems()
    path = find_coco(path)
    content = read_json(path)
    if not is_coco(content):
        raise DataError(f"{path}: is no COCO instance file; allowed: an object with 'images' and 'annotations'")
    names = _category_names(content, path)
    entries_of = _annotations_by_image(content, path, problems)
    folders = [Path(images_dir)] if images_dir is not None else _usual_folders(path)
    for index, entry in enumerate(content["images"]):
        image = None
        with problems.at(f"{path}: images[{index}]"):
            if not isinstance(entry, dict) or not _is_id(entry.get("id")):
                raise DataError("has no id; allowed: an object with id, file_name, width and height")
            size_hw = rle_size_hw({"size": [entry.get("height"), entry.get("width")]})
            name = entry.get("file_name")
            image = AnnotatedImage(name, size_hw, (), _find_picture(name, folders), entry["id"])  # type: ignore[arg-type]
        if image is None:
            continue
        raw = []
        for number, annotation in entries_of.get(entry["id"], []):
            with problems.at(f"{path}: annotations[{number}]"):
                raw.append(_parse_annotation(annotation, image.size_hw, names))
                if problems.collect:
                    _check_numbers(annotation, raw[-1].record)
        records = number_records(raw, problems, f"{path}: {image.file_name}")
        yield AnnotatedImage(image.file_name, image.size_hw, records, image.image_path, image.image_id)


def write_coco(
    path: str | Path,
    images: Iterable[AnnotatedImage],
    segmentation: Literal["rle", "polygon"] = "rle",
    tolerance: float = 0.0,
) -> None:
    """Write all images into one COCO file (annotations.json where `path` is a folder), whole or not at all.

    `tolerance` in pixels thins polygons out by `simplify_ring`; 0 is exact. Image ids and mask ids stay
    where all are distinct whole numbers, else they are numbered from 1; categories have the numbers that the
    masks' `extra` states as `category_id`, else they are numbered as they appear. Raises DataError for an image
    that comes twice.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        path.mkdir(parents=True, exist_ok=True)
        path = path / FILE_NAME
    if segmentation not in ("rle", "polygon"):
        raise DataError(f"segmentation is {segmentation!r}; allowed: 'rle' or 'polygon'")
    all_images = list(images)
    if len({image.file_name for image in all_images}) != len(all_images):
        raise DataError(f"{path}: several images have the same file name; allowed: each its own")
    image_ids = whole_ids([image.image_id for image in all_images])
    mask_ids = iter(whole_ids([record.id for image in all_images for record in image.records]))
    category_ids = _stated_category_ids(all_images)
    image_entries, annotations = [], []
    for image, image_id in zip(all_images, image_ids, strict=True):
        height, width = image.size_hw
        image_entries.append({"id": image_id, "file_name": image.file_name, "width": width, "height": height})
        new_id_of = {record.id: next(mask_ids) for record in image.records}
        for record in image.records:
            annotation = _annotation(record, segmentation, tolerance)
            name = annotation.pop("category", UNNAMED)
            annotation |= {
                "id": new_id_of[record.id],
                "image_id": image_id,
                "category_id": category_ids.setdefault(name, len(category_ids) + 1),
            }
            if record.parent_id is not None:
                annotation["parent_id"] = new_id_of[record.parent_id]
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for name, number in category_ids.items()]
    content = {"images": image_entries, "annotations": annotations, "categories": categories}
    write_text_atomically(path, to_json(path, {"info": {}, "licenses": [], **content}))


def is_coco(content: Any) -> bool:
    """Whether what a JSON file holds looks like COCO's instances."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("images"), list)
        and isinstance(content.get("annotations"), list)
    )


def find_coco(path: str | Path) -> Path:
    """The COCO file that a path means: itself, or the only one in the folder or its `annotations`.

    Raises DataError when there is none or several.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; allowed: a COCO JSON or a folder that holds one")
    for folder in (path, path / "annotations"):
        found = sorted(folder.glob("*.json"))
        if len(found) > 1:  # parsed only where there is a choice: such a file may be half a gigabyte
            found = [file for file in found if is_coco(read_json(file))]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found)
            raise DataError(f"{folder}: has several COCO files ({names}); allowed: the path of one")
    raise DataError(f"{path}: has no COCO file; allowed: one JSON of 'images' and 'annotations'")


def _annotation(record: MaskRecord, segmentation: str, tolerance: float) -> dict[str, Any]:
    own = {
        "iscrowd": int(bool(record.extra.get("iscrowd"))),
        "segmentation": record.segmentation,
        "area": record.area,
        "bbox": list(record.bbox_xywh),
    }
    if segmentation == "polygon":
        regions = mask_to_outlines(record.mask)
        if regions and all(len(region) == 1 for region in regions):
            rings = [simplify_ring(outline, tolerance) for (outline,) in regions]
            own["segmentation"] = [ring.ravel().tolist() for ring in rings]
    return record.facts() | own


def _stated_category_ids(images: Iterable[AnnotatedImage]) -> dict[str, int]:
    """Categories' numbers by name, if each mask has one as `category_id` and they agree; empty otherwise."""
    pairs = {(record.category, record.extra.get("category_id")) for image in images for record in image.records}
    ids = {name: number for name, number in pairs if name is not None and isinstance(number, int)}
    return ids if len(pairs) == len(ids) == len(set(ids.values())) else {}


def _category_names(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    names = {}
    categories = content.get("categories", [])
    for index, category in enumerate(categories if isinstance(categories, list) else [categories]):
        if not isinstance(category, dict) or "name" not in category or not isinstance(category.get("id"), int):
            raise DataError(f"{path}: categories[{index}] is {category!r}; allowed: an id and a name")
        names[category["id"]] = str(category["name"])
    return names


def _annotations_by_image(
    content: Mapping[str, Any], path: Path, problems: Problems
) -> dict[Any, list[tuple[int, dict[str, Any]]]]:
    """The annotations of each image's id, with their place in the file."""
    images = [image for image in content["images"] if isinstance(image, dict)]
    known = {image["id"] for image in images if _is_id(image.get("id"))}
    with problems.at(path):
        if len(known) != len(content["images"]):
            raise DataError("an image has no id, or one that another has; allowed: each its own")
    entries_of: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for index, entry in enumerate(content["annotations"]):
        with problems.at(f"{path}: annotations[{index}]"):
            if not isinstance(entry, dict):
                raise DataError(f"is a {type(entry).__name__}; allowed: an object")
            if not _is_id(entry.get("image_id")) or entry["image_id"] not in known:
                raise DataError(f"image_id is {entry.get('image_id')!r}; allowed: the id of an image")
            entries_of.setdefault(entry["image_id"], []).append((index, entry))
    return entries_of


def _parse_annotation(entry: dict[str, Any], size_hw: tuple[int, int], names: dict[int, str]) -> RawRecord:
    category_id = entry.get("category_id")
    if names and (not isinstance(category_id, int) or category_id not in names):
        raise DataError(f"category_id is {category_id!r}; allowed: the id of a category")
    rle = segmentation_rle(entry.get("segmentation"), size_hw)
    facts = parse_facts(entry, _OWN_KEYS)
    name = names.get(category_id) if isinstance(category_id, int) else None
    facts["category"] = None if name == UNNAMED else name
    if not entry.get("iscrowd"):
        facts["extra"].pop("iscrowd", None)
    return raw_record(entry.get("id"), rle, facts)


def segmentation_rle(shape: Any, size_hw: tuple[int, int]) -> Rle:
    """The code of an annotation's `segmentation`, polygons or a code. Raises DataError when it is broken."""
    if isinstance(shape, dict):
        if rle_size_hw(shape) != size_hw:
            raise DataError(f"segmentation size is {shape['size']}; allowed: the image's, {list(size_hw)}")
        return shape
    if not isinstance(shape, list) or not shape:
        raise DataError(
            f"segmentation is a {type(shape).__name__} without content; allowed: polygons, or an RLE object"
        )
    rings = []
    for polygon in shape:
        try:
            rings.append(np.array(polygon, dtype=np.float64).reshape(-1, 2))
        except (TypeError, ValueError) as error:
            raise DataError(f"segmentation has a polygon that is no list of x, y, x, y ({error})") from error
    return polygons_to_rle(rings, size_hw)


def _check_numbers(entry: Mapping[str, Any], record: MaskRecord) -> None:
    """Compare the stated area and box with the mask's; a polygon's box is that of its corners."""
    try:
        area = float(entry.get("area", record.area))
        x, y, width, height = (float(number) for number in entry.get("bbox", record.bbox_xywh))
    except (TypeError, ValueError) as error:
        raise DataError(f"area or bbox is not a number, or not four of them ({error})") from error
    area_slack = 0.0
    if isinstance(entry["segmentation"], list):
        corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in entry["segmentation"]])
        box = tuple(float(value) for value in (*corners.min(axis=0), *np.ptp(corners, axis=0)))
        record = replace(record, bbox_xywh=box)  # type: ignore[arg-type]
        # Stated is the polygon's own area: up to half a pixel more or less along its border.
        area_slack = max(box[2] + box[3], 4.0)
    check_stated(area, (x, y, width, height), record, area_slack)


def _usual_folders(path: Path) -> list[Path]:
    split = path.stem.removeprefix("instances_")
    folders = [path.parent, path.parent / "images", path.parent / split, path.parent / "images" / split]
    if path.parent.name == "annotations":
        above = path.parent.parent
        folders += [above, above / "images", above / split, above / "images" / split]
    return folders


def _find_picture(name: Any, folders: Iterable[Path]) -> Path | None:
    if not isinstance(name, str) or ".." in Path(name).parts:
        return None
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)
