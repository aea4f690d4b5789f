"""A detector's boxes: every form says the same, and what is broken is named."""

import json

import pytest

from anymask.data.detections import Detection, digest, read_detections
from anymask.errors import DataError

COCO_IMAGES = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
    "categories": [{"id": 3, "name": "dog"}, {"id": 5, "name": "cup"}],
}


@pytest.fixture
def write(tmp_path):
    def write(content, name="boxes.json"):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return write


def test_boxes_by_name(write):
    path = write({"a.jpg": [[1, 2, 30, 40.5]], "b.jpg": [], "c.jpg": [{"box": [0, 0, 5, 5], "label": 2, "score": 1}]})
    a, b, c = read_detections(path)
    assert (a.file_name, a.detections, a.image_id) == ("a.jpg", (Detection((1, 2, 30, 40.5)),), None)
    assert b.detections == ()
    assert c.detections == (Detection((0, 0, 5, 5), "2", 1.0),)


@pytest.mark.parametrize(("name_key", "box_key"), [("image", "box"), ("file_name", "bbox_xyxy")])
def test_boxes_in_a_row(write, name_key, box_key):
    entry = {name_key: "a.jpg", box_key: [1, 2, 3, 4], "label": "dog", "score": 0.5, "id": 12}
    other = {name_key: "b.jpg", box_key: [5, 6, 7, 8]}
    a, b = read_detections(write([entry, other, {**entry, "id": 13}]))
    assert a.detections == tuple(Detection((1, 2, 3, 4), "dog", 0.5, id) for id in (12, 13))
    assert b.detections == (Detection((5, 6, 7, 8)),)


def test_coco_results_take_names_and_categories_from_their_data_set(write):
    results = [{"image_id": 9, "bbox": [10, 20, 5, 6], "category_id": 3, "score": 0.9}]
    images = write({**COCO_IMAGES, "annotations": []}, "instances.json")
    a, b = read_detections(write(results), images)
    assert (a.file_name, a.detections, a.image_id) == ("a.jpg", (), 7)
    assert b.detections == (Detection((10, 20, 15, 26), "dog", 0.9, None, 3),)
    with pytest.raises(DataError, match="--coco-images"):
        read_detections(write(results))


def test_a_coco_data_set_is_its_annotations_without_crowds(write):
    box = {"image_id": 7, "bbox": [1, 1, 2, 2], "category_id": 5}
    annotations = [{**box, "id": 70}, {**box, "id": 71, "iscrowd": 1}]
    a, _ = read_detections(write({**COCO_IMAGES, "annotations": annotations}))
    assert a.detections == (Detection((1, 1, 3, 3), "cup", None, 70, 5),)


def test_low_scores_are_left_out_and_boxes_without_stay(write):
    path = write({"a.jpg": [{"box": [0, 0, 1, 1], "score": score} for score in (0.2, 0.5, None)]})
    assert [one.score for one in read_detections(path, min_score=0.5)[0].detections] == [0.5, None]


def test_the_digest_changes_with_any_number(write):
    digests = {
        digest(read_detections(write({name: [{"box": [0, 0, 1, side], "label": label, "score": score}]})))
        for name, side, label, score in [
            ("a", 1, "x", 1),
            ("b", 1, "x", 1),
            ("a", 2, "x", 1),
            ("a", 1, "y", 1),
            ("a", 1, "x", 0.5),
        ]
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (3, "is a int"),
        ({"a.jpg": 3}, r"'a\.jpg' has a int"),
        ({"a.jpg": [[1, 2, 3]]}, r"'a\.jpg'\[0\]: box is \[1, 2, 3\]; allowed: four finite numbers x0, y0, x1, y1"),
        ({"a.jpg": [[1, 2, 3, float("nan")]]}, "four finite numbers"),
        ({"a.jpg": ["box"]}, r"'a\.jpg'\[0\]: is a str"),
        ([[1, 2, 3, 4]], r"\[0\]: is a list"),
        ([{"box": [1, 2, 3, 4]}], r"\[0\]: names no image"),
        ([{"image": "a.jpg", "bbox": [1, 2, 3, 4]}], "either order"),
        ([{"image": "a.jpg", "box": [1, 2, 3, 4], "score": "high"}], "score is 'high'"),
        ({**COCO_IMAGES, "annotations": [{"image_id": 1, "bbox": [1, 1, 1, 1], "category_id": 3}]}, "image_id is 1"),
        ({**COCO_IMAGES, "annotations": [{"image_id": 7, "bbox": [1, 1, 1, 1], "category_id": 4}]}, "category_id is 4"),
        ({**COCO_IMAGES, "annotations": [{"image_id": 7, "category_id": 3}]}, "x, y, width, height"),
        ({"images": [{"id": 1}], "annotations": []}, r"images\[0\] has no id or no file_name"),
    ],
)
def test_what_is_broken_is_named(write, content, told):
    path = write(content)
    with pytest.raises(DataError, match=told) as caught:
        read_detections(path)
    assert str(path) in str(caught.value)
