import contextlib
import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from made_up import annotated_images, contents, datasets, save_pictures

from anymask.data.annotated import AnnotatedImage, Problems
from anymask.data.coco import find_coco, read_coco, write_coco
from anymask.errors import DataError
from anymask.geometry.masks import mask_iou
from anymask.records import MaskRecord


def renumbered(images):
    """The images with the ids that masks get where several images use the same ones."""
    ids = [record.id for image in images for record in image.records]
    if len(set(ids)) == len(ids):
        return images
    numbers = iter(range(1, len(ids) + 1))
    answer = []
    for image in images:
        new = {record.id: next(numbers) for record in image.records}
        records = [replace(r, id=new[r.id], parent_id=new.get(r.parent_id)) for r in image.records]
        answer.append(replace(image, records=tuple(records)))
    return answer


@given(datasets())
def test_what_is_written_is_read(images):
    with tempfile.TemporaryDirectory() as folder:
        write_coco(folder, images)
        assert contents(read_coco(folder)) == contents(renumbered(images))


@given(annotated_images())
def test_polygons_are_exact_and_holes_stay_codes(image):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        write_coco(path, [image], segmentation="polygon")
        assert contents(read_coco(path)) == contents([image])
        for entry, record in zip(json.loads(path.read_text())["annotations"], image.records, strict=True):
            filled = np.pad(record.mask, 1)
            has_hole = _ground_regions(filled) > 1
            assert isinstance(entry["segmentation"], dict) == (has_hole or not record.area)


def _ground_regions(mask):
    import cv2

    return cv2.connectedComponents((~mask).astype(np.uint8), connectivity=4)[0] - 1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_pycocotools_sees_the_same_masks(tmp_path, photo):
    from pycocotools.coco import COCO

    records = [MaskRecord.from_mask(n + 1, mask, category="ellipse") for n, mask in enumerate(photo.masks_khw)]
    ring = photo.masks_khw[0] & ~np.roll(photo.masks_khw[0], 3, axis=0)
    records.append(MaskRecord.from_mask(9, ring, category="ring"))
    image = AnnotatedImage("a.jpg", (120, 160), tuple(records), image_id=12)
    for segmentation in ("rle", "polygon"):
        write_coco(tmp_path, [image], segmentation=segmentation)
        with contextlib.redirect_stdout(io.StringIO()):
            peer = COCO(str(tmp_path / "annotations.json"))
        annotations = peer.loadAnns(peer.getAnnIds(imgIds=[12]))
        assert [peer.cats[entry["category_id"]]["name"] for entry in annotations] == ["ellipse"] * 4 + ["ring"]
        for entry, record in zip(annotations, records, strict=True):
            np.testing.assert_array_equal(peer.annToMask(entry) == 1, record.mask)


def test_tolerance_saves_corners_and_keeps_the_shape(tmp_path, photo):
    records = tuple(MaskRecord.from_mask(n + 1, mask) for n, mask in enumerate(photo.masks_khw))
    corners = []
    for tolerance in (0, 1.5):
        write_coco(tmp_path, [AnnotatedImage("a.jpg", (120, 160), records)], "polygon", tolerance)
        (image,) = read_coco(tmp_path)
        assert min(mask_iou(a.mask, b.mask) for a, b in zip(records, image.records, strict=True)) >= 0.9
        content = json.loads((tmp_path / "annotations.json").read_text())
        corners.append(sum(len(ring) for entry in content["annotations"] for ring in entry["segmentation"]))
    assert corners[1] < corners[0] / 2


@pytest.fixture
def content():
    square = [1, 1, 3, 1, 3, 3, 1, 3]
    return {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 6, "width": 8}],
        "categories": [{"id": 2, "name": "cat"}, {"id": 3, "name": "object"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 2, "segmentation": [square], "area": 4, "bbox": [1, 1, 2, 2]},
            {
                "id": 2,
                "image_id": 5,
                "category_id": 3,
                "iscrowd": 1,
                "segmentation": {"size": [6, 8], "counts": [6, 42]},
                "area": 42,
                "bbox": [1, 0, 7, 6],
            },
        ],
    }


def save(path, content):
    path.write_text(json.dumps(content))
    return path


def test_a_foreign_file_is_read(tmp_path, content):
    (image,) = read_coco(save(tmp_path / "x.json", content))
    polygon, crowd = image.records
    assert np.argwhere(polygon.mask).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert (polygon.category, polygon.extra) == ("cat", {})
    assert (crowd.category, crowd.extra, crowd.area) == (None, {"iscrowd": 1}, 42)
    assert (image.image_id, image.image_path) == (5, None)
    write_coco(tmp_path / "y.json", [image])
    assert contents(read_coco(tmp_path / "y.json")) == contents([image])


@pytest.mark.parametrize("place", ["a.jpg", "images/a.jpg", "train/a.jpg", "images/train/a.jpg"])
def test_pictures_are_found_in_the_usual_places(tmp_path, content, place):
    save_pictures(tmp_path, [AnnotatedImage(place, (6, 8))])
    (tmp_path / "annotations").mkdir()
    for path in (tmp_path / "instances_train.json", tmp_path / "annotations" / "instances_train.json"):
        (image,) = read_coco(save(path, content))
        assert image.image_path == tmp_path / place
        path.unlink()
    (image,) = read_coco(save(tmp_path / "z.json", content), images_dir=(tmp_path / place).parent)
    assert image.image_path == tmp_path / place


def test_a_folder_means_its_only_file(tmp_path, content):
    with pytest.raises(DataError, match="no COCO file"):
        find_coco(tmp_path)
    save(tmp_path / "other.json", {"shapes": []})
    save(tmp_path / "list.json", [])
    assert find_coco(tmp_path / "other.json").name == "other.json"
    (tmp_path / "annotations").mkdir()
    inside = save(tmp_path / "annotations" / "x.json", content)
    assert find_coco(tmp_path) == inside
    save(inside.with_name("y.json"), content)
    with pytest.raises(DataError, match=r"several COCO files \(x\.json, y\.json\)"):
        find_coco(tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        find_coco(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c.pop("images"), "no COCO instance file"),
        (lambda c: c["images"][0].pop("id"), "no id"),
        (lambda c: c["images"].append(c["images"][0]), "one that another has"),
        (lambda c: c["images"][0].update(file_name="../a.jpg"), r"images\[0\]: file_name"),
        (lambda c: c["images"][0].update(file_name=None), r"images\[0\]: file_name"),
        (lambda c: c["images"][0].update(width="8"), r"images\[0\]: rle size"),
        (lambda c: c["images"][0].update(width=9), r"annotations\[1\]: segmentation size"),
        (lambda c: c["categories"][0].pop("name"), r"categories\[0\]"),
        (lambda c: c["annotations"].append(3), r"annotations\[2\]: is a int"),
        (lambda c: c["annotations"][0].update(image_id=6), r"annotations\[0\]: image_id is 6"),
        (lambda c: c["annotations"][0].update(image_id=[]), r"annotations\[0\]: image_id"),
        (lambda c: c["annotations"][0].update(category_id=9), r"annotations\[0\]: category_id is 9"),
        (lambda c: c["annotations"][0].update(category_id=[]), r"annotations\[0\]: category_id"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), r"annotations\[0\]: .*polygon"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), "three corners"),
        (lambda c: c["annotations"][0].update(segmentation=[["a"] * 6]), r"annotations\[0\]: .*polygon"),
        (lambda c: c["annotations"][0].update(segmentation=[[0, 0, 1e9, 0, 1, 1]]), "leaves the image"),
        (lambda c: c["annotations"][0].update(segmentation=[]), "without content"),
        (lambda c: c["annotations"][0].update(segmentation=None), "without content"),
        (lambda c: c["annotations"][1]["segmentation"].update(counts=[6, 41]), r"annotations\[1\]: rle counts add up"),
        (lambda c: c["annotations"][1]["segmentation"].pop("counts"), "counts"),
        (lambda c: c["annotations"][1].update(id=1), "same id"),
        (lambda c: c["annotations"][1].update(parent_id=4), "parent_id is 4"),
    ],
)
def test_broken_content_names_the_file(tmp_path, content, change, word):
    change(content)
    path = save(tmp_path / "x.json", content)
    with pytest.raises(DataError, match=word) as caught:
        list(read_coco(path))
    assert str(path) in str(caught.value)


def test_a_check_compares_stated_numbers(tmp_path, content):
    problems = Problems(collect=True)
    list(read_coco(save(tmp_path / "x.json", content), problems=problems))
    assert problems.found == []
    content["annotations"][0]["bbox"] = [1, 1, 4, 2]
    content["annotations"][1]["area"] = 41
    content["annotations"].append({**content["annotations"][1], "id": 3, "area": "many"})
    (image,) = read_coco(save(tmp_path / "x.json", content), problems=problems)
    assert len(image.records) == 3
    assert ["bbox is" in problems.found[0], "area is 41" in problems.found[1], "number" in problems.found[2]] == [
        True
    ] * 3


def test_what_cannot_be_written(tmp_path):
    image = AnnotatedImage("a.jpg", (2, 2))
    with pytest.raises(DataError, match="same file name"):
        write_coco(tmp_path / "x.json", [image, image])
    with pytest.raises(DataError, match="'outline'"):
        write_coco(tmp_path / "x.json", [image], segmentation="outline")
    assert list(tmp_path.iterdir()) == []
