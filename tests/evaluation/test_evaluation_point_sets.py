"""The same objects out of every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from known_scene import Scene
from PIL import Image

from anymask.data.formats import convert_dataset
from anymask.data.sa1b import write_sa1b
from anymask.errors import DataError
from anymask.evaluation.known_sets import known_sets
from anymask.evaluation.point_scores import evaluate_points
from anymask.evaluation.point_sets import LAYOUTS, open_point_set, truth_sha256
from anymask.evaluation.points import PointSettings
from anymask.geometry.masks import mask_iou_matrix
from anymask.geometry.rle import decode_rle


# YOLO's and LabelMe's polygons are exact only in their own rasterisers.
@pytest.mark.parametrize("layout", ["coco", "yolo", "labelme", "png"])
def test_converted_sets_have_the_same_objects(scene: Scene, tmp_path: Path, layout: str) -> None:
    convert_dataset(scene.folder, tmp_path / layout, layout)
    path = tmp_path / layout / "annotations.json" if layout == "coco" else tmp_path / layout
    for chosen in ("auto", layout):
        point_set = open_point_set(path, chosen)
        assert len(point_set.names) == 3
        for name, truth, image in zip(point_set.names, scene.masks, scene.images, strict=True):
            sample = point_set.sample(name)
            ious = mask_iou_matrix(np.stack([decode_rle(thing.rle) for thing in sample.annotations]), truth)
            assert ious.shape == (len(truth), len(truth))
            assert ious.max(axis=0).min() >= (0.9 if layout in ("yolo", "labelme") else 1)
            np.testing.assert_array_equal(sample.read_image(), image)


def test_instance_folders_and_label_maps(scene: Scene, tmp_path: Path) -> None:
    for name, image, masks in zip("abc", scene.images, scene.masks, strict=True):
        for kind in ("instances", "labels", "images"):
            (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(masks.any(axis=0).astype(np.uint8)).save(tmp_path / "labels" / f"{name}.png")
        folder = tmp_path / "instances" / name / "masks"
        folder.mkdir(parents=True)
        for number, mask in enumerate(masks):
            Image.fromarray(mask).save(folder / f"{number}.png")
    for path, layout in (("instances", "auto"), ("instances", "instances"), ("labels", "semantic")):
        results = evaluate_points(
            scene.judge(lambda truth, _: truth[None]),
            [tmp_path / path],
            tmp_path / f"{path}-{layout}",
            PointSettings(clicks=(1,)),
            layout=layout,
        )
        (of_set,) = results.sets.values()
        assert (of_set.objects, of_set.miou["1"]) == (8, 1.0)


def test_the_digest_is_that_of_the_masks(scene: Scene) -> None:
    point_set = open_point_set(scene.folder)
    before = truth_sha256(point_set.sample("a.png"))
    write_sa1b(scene.folder / "a.json", "a.png", (120, 160), scene.masks[0], [{"note": "new"}] * 4)
    assert truth_sha256(point_set.sample("a.png")) == before
    write_sa1b(scene.folder / "a.json", "a.png", (120, 160), scene.masks[0][::-1])
    assert truth_sha256(point_set.sample("a.png")) != before


def test_what_is_no_set_is_refused(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="layout is 'zip'"):
        open_point_set(scene.folder, "zip")
    with pytest.raises(DataError, match="no known format"):
        open_point_set(tmp_path)


def test_the_manifest_has_the_papers_sets() -> None:
    sets = known_sets()
    assert len(sets) == 23
    assert sum(known.masks for known in sets) > 170_000
    for known in sets:
        assert known.layout is None or known.layout in LAYOUTS
        assert known.home is None or known.home.startswith("http")
