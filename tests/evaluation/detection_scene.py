"""The known scene as COCO and LVIS files, and ways to know or not know it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from known_scene import Scene

from anymask.geometry.rle import encode_rle, rle_area, rle_to_box_xywh

CATEGORIES = [
    {"id": 3, "name": "red", "frequency": "r"},
    {"id": 5, "name": "blue", "frequency": "c"},
    {"id": 8, "name": "yellow", "frequency": "f"},
    {"id": 9, "name": "green", "frequency": "f"},
]


def write_instances(scene: Scene, path: Path, is_lvis: bool = False) -> Path:
    """The scene's eight ellipses, the n-th of an image in the n-th category."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, masks) in enumerate(zip(scene.names, scene.masks, strict=True), start=1):
        height, width = masks.shape[1:]
        image: dict[str, Any] = {"id": number, "height": height, "width": width}
        if is_lvis:  # no file name, but an address
            image |= {"coco_url": f"http://images.cocodataset.org/{scene.folder.name}/{name}"}
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        else:
            image["file_name"] = name
        images.append(image)
        for mask, category in zip(masks, CATEGORIES, strict=False):
            rle = encode_rle(mask)
            thing = {"id": len(annotations) + 1, "image_id": number, "category_id": category["id"], "iscrowd": 0}
            annotations.append(thing | {"segmentation": rle, "area": rle_area(rle), "bbox": list(rle_to_box_xywh(rle))})
    categories = CATEGORIES if is_lvis else [{"id": entry["id"], "name": entry["name"]} for entry in CATEGORIES]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


class KnownProposals:
    """Proposes what `answer` makes of an image's true masks; most confident first. Keeps what it was asked."""

    def __init__(self, scene: Scene, answer: Any, name: str = "known") -> None:
        self.masks = dict(zip(scene.names, scene.masks, strict=True))
        self.answer, self.name, self.asked = answer, name, []  # type: ignore[var-annotated]

    def propose(self, image_path: Path) -> list[dict[str, Any]]:
        self.asked.append(image_path.name)
        masks: list[np.ndarray] = list(self.answer(self.masks[image_path.name]))
        return [{"segmentation": encode_rle(mask), "score": 1 - rank / 1000} for rank, mask in enumerate(masks)]

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}
