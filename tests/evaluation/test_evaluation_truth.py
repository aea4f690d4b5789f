"""COCO, LVIS and SA-1B files as the detection experiments read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_scene import write_instances
from known_scene import Scene

from anymask.errors import DataError
from anymask.evaluation.truth import open_truth
from anymask.geometry.rle import decode_rle


@pytest.mark.parametrize("layout", ["coco", "lvis", "sa1b"])
def test_the_same_masks_from_every_layout(scene: Scene, tmp_path: Path, layout: str) -> None:
    path = scene.folder
    if layout != "sa1b":
        path = write_instances(scene, scene.folder.parent / "annotations" / "instances_test.json", layout == "lvis")
    truth = open_truth(path)
    images = list(truth.images())
    assert [Path(image.name).name for image in images] == scene.names
    for image, masks in zip(images, scene.masks, strict=True):
        assert image.require_path().name in scene.names
        assert image.size_hw == masks.shape[1:]
        for thing, mask in zip(image.objects, masks, strict=True):
            np.testing.assert_array_equal(decode_rle(thing.rle), mask)
            assert thing.area == mask.sum()
            assert (thing.category_id is None) == (layout == "sa1b")
    assert truth.is_federated == (layout == "lvis")
    assert truth.count(2) == len(list(truth.images(2))) == 2


def test_stated_areas_polygons_crowds_and_rules_of_lvis(tmp_path: Path) -> None:
    square = [2, 2, 6, 2, 6, 6, 2, 6]
    entry = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [square], "area": 12.5, "bbox": [2, 2, 4, 4]}
    crowd = {"id": 2, "image_id": 7, "category_id": 1, "iscrowd": 1}
    crowd |= {"segmentation": {"size": [8, 8], "counts": [0, 8, 56]}, "area": 8, "bbox": [0, 0, 1, 8]}
    image = {"id": 7, "file_name": "x.png", "height": 8, "width": 8}
    image |= {"neg_category_ids": [4], "not_exhaustive_category_ids": [1]}
    categories = [{"id": 1, "name": "a", "frequency": "r"}]
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps({"images": [image], "annotations": [entry, crowd], "categories": categories}))
    truth = open_truth(path)
    assert truth.categories[1].frequency == "rare"
    (found,) = truth.images()
    assert [thing.is_crowd for thing in found.objects] == [False, True]
    assert found.objects[0].area == 12.5
    assert decode_rle(found.objects[0].rle).sum() == 16
    assert decode_rle(found.objects[1].rle)[:, 0].all()
    assert (found.neg_category_ids, found.not_exhaustive_category_ids) == (frozenset({4}), frozenset({1}))
    with pytest.raises(DataError, match=r"x\.png: the picture was not found"):
        found.require_path()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": [{"id": 1}], "annotations": []}, "rle size"),
        ({"images": [{"height": 4}], "annotations": []}, "no COCO instances file"),
        ({"images": [{"id": 1, "height": 4, "width": 4, "file_name": "../x.png"}], "annotations": []}, "file_name is"),
        ({"categories": []}, "no COCO"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        list(open_truth(path).images())
    assert str(path) in str(caught.value)
