import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from made_up import contents, datasets, save_pictures

from anymask.data.annotated import AnnotatedImage, Problems
from anymask.data.labelme import read_labelme, write_labelme
from anymask.errors import DataError
from anymask.geometry.masks import mask_iou
from anymask.records import MaskRecord


def without_empty(images):
    """The images as LabelMe can hold them: no empty masks, and nothing that is part of one."""
    answer = []
    for image in images:
        kept = {record.id for record in image.records if record.area}
        records = (r for r in image.records if r.id in kept)
        records = tuple(replace(r, parent_id=r.parent_id if r.parent_id in kept else None) for r in records)
        answer.append(replace(image, records=records))
    return answer


@given(datasets())
def test_what_is_written_is_read(images):
    images = without_empty(images)
    with tempfile.TemporaryDirectory() as folder:
        write_labelme(folder, images, tolerance=0)
        assert contents(read_labelme(folder)) == contents(images)


@given(datasets())
def test_simplified_masks_overlap_the_exact_ones(images):
    with tempfile.TemporaryDirectory() as folder:
        write_labelme(folder, without_empty(images))
        for image, found in zip(without_empty(images), read_labelme(folder), strict=True):
            for record, other in zip(image.records, found.records, strict=True):
                assert mask_iou(record.mask, other.mask) >= 0.9
                assert replace(other, segmentation={}, area=0, bbox_xywh=()) == replace(
                    record, segmentation={}, area=0, bbox_xywh=()
                )


def test_a_part_of_an_empty_mask_loses_its_parent_alone(tmp_path):
    records = (
        MaskRecord.from_mask(1, np.zeros((3, 3), dtype=bool)),
        MaskRecord.from_mask(2, np.ones((3, 3), dtype=bool), parent_id=1),
    )
    write_labelme(tmp_path, [AnnotatedImage("a.jpg", (3, 3), records)])
    (found,) = read_labelme(tmp_path)
    assert [(record.id, record.parent_id) for record in found.records] == [(2, None)]


def test_shapes_of_a_mask_with_a_hole_and_an_island(tmp_path):
    mask = np.zeros((6, 9), dtype=bool)
    mask[0:4, 0:5] = True
    mask[1, 2] = False
    mask[5, 7:9] = True
    write_labelme(tmp_path, [AnnotatedImage("a.jpg", (6, 9), (MaskRecord.from_mask(4, mask, category="cat"),))])
    content = json.loads((tmp_path / "a.json").read_text())
    shapes = {shape["shape_type"]: shape for shape in content["shapes"]}
    assert sorted(shapes) == ["mask", "polygon"]
    assert {(shape["label"], shape["group_id"]) for shape in content["shapes"]} == {("cat", 4)}
    assert shapes["mask"]["points"] == [[0, 0], [4, 3]]  # first and last pixel
    assert {tuple(point) for point in shapes["polygon"]["points"]} == {(7, 5), (9, 5), (9, 6), (7, 6)}
    assert (content["imagePath"], content["imageHeight"], content["imageWidth"]) == ("a.jpg", 6, 9)
    assert content["imageData"] is None


@pytest.fixture
def content():
    def shape(kind, points, **more):
        return {"label": "x", "shape_type": kind, "points": points, "group_id": None, "flags": {}, **more}

    return {
        "version": "4.5.6",
        "shapes": [
            shape("polygon", [[1, 1], [4, 1], [4, 3], [1, 3]], group_id=5),
            shape("rectangle", [[8, 6], [6, 5]], group_id=5),
            shape("circle", [[15, 5], [18, 5]]),
            shape(None, [[0, 0], [2, 0], [2, 2]], label="object", group_id=5),
        ],
        "imagePath": "..\\pictures\\a.jpg",
        "imageData": None,
        "imageHeight": 10,
        "imageWidth": 20,
    }


def save(folder, content):
    (folder / "a.json").write_text(json.dumps(content))
    return folder


def test_a_foreign_file_is_read(tmp_path, content):
    (image,) = read_labelme(save(tmp_path, content))
    both, disc, corner = image.records
    assert [(record.id, record.category) for record in image.records] == [(5, "x"), (6, "x"), (7, None)]
    assert both.area == 6 + 2
    assert 26 <= disc.area <= 32  # nine times pi, in pixels
    assert disc.mask[5, 15]
    assert 1 <= corner.area <= 3
    assert image.image_path is None


def test_pictures_and_missing_sizes(tmp_path, content):
    (tmp_path / "files").mkdir()
    del content["imageHeight"]
    with pytest.raises(DataError, match=r"a\.json: rle size"):
        list(read_labelme(save(tmp_path / "files", content)))
    save_pictures(tmp_path / "pictures", [AnnotatedImage("a.jpg", (10, 20))])
    (image,) = read_labelme(tmp_path / "files")
    assert image.size_hw == (10, 20)
    assert image.image_path.samefile(tmp_path / "pictures" / "a.jpg")
    (image,) = read_labelme(tmp_path / "files", tmp_path / "pictures")
    assert image.image_path == tmp_path / "pictures" / "a.jpg"


def pixel_png(width):
    import base64
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (width, 1), 255).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s: s.update(shape_type="point"), "shape_type is 'point'"),
        (lambda s: s.update(points=[[1, 1]]), "three corners"),
        (lambda s: s.update(points=None), "points"),
        (lambda s: s.update(points=[[1, "a"]]), "points"),
        (lambda s: s.update(points=[[1, 1], [2, 2], [float("nan"), 1]]), "leaves the image"),
        (lambda s: s.update(shape_type="rectangle"), "two points"),
        (lambda s: s.update(shape_type="circle", points=[[1, 1], [float("inf"), 1]]), "two points"),
        (lambda s: s.pop("label"), "no label"),
        (lambda s: s.update(shape_type="mask", points=[[0, 0], [1, 0]]), "base64"),
        (lambda s: s.update(shape_type="mask", points=[[0, 0], [1, 0]], mask="????"), "base64"),
        (lambda s: s.update(shape_type="mask", points=[[0, 0], [1, 0]], mask="AAAA"), "base64"),
        (lambda s: s.update(shape_type="mask", points=[[0, 0], [1, 0]], mask=pixel_png(3)), r"\(1, 3\)"),
        (lambda s: s.update(shape_type="mask", points=[[19, 9], [20, 9]], mask=pixel_png(2)), "inside"),
    ],
)
def test_broken_shapes_are_named(tmp_path, content, change, word):
    change(content["shapes"][0])
    with pytest.raises(DataError, match=rf"a\.json: shapes\[0\]: .*{word}"):
        list(read_labelme(save(tmp_path, content)))
    problems = Problems(collect=True)
    (image,) = read_labelme(tmp_path, problems=problems)
    assert (len(image.records), len(problems.found)) == (3, 1)


def test_broken_files(tmp_path, content):
    (tmp_path / "other.json").write_text("[]")
    assert list(read_labelme(tmp_path)) == []
    content["imagePath"] = 7
    with pytest.raises(DataError, match=r"a\.json: imagePath is 7"):
        list(read_labelme(save(tmp_path, content)))
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json"):
        list(read_labelme(tmp_path))
    with pytest.raises(DataError, match="nowhere"):
        list(read_labelme(Path("nowhere")))
