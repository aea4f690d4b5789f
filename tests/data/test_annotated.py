from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from made_up import annotated_images

from anymask.data.annotated import (
    AnnotatedImage,
    Problems,
    check_stated,
    number_records,
    parse_facts,
    raw_record,
    whole_ids,
)
from anymask.errors import DataError
from anymask.geometry.rle import encode_rle
from anymask.records import MaskRecord, with_parents


@given(annotated_images())
def test_facts_come_back_from_their_own_words(image):
    raw = [
        raw_record(
            record.id, record.segmentation, parse_facts(record.to_sa1b(), ["id", "segmentation", "area", "bbox"])
        )
        for record in image.records
    ]
    assert number_records(raw, Problems(), "here") == image.records


def test_a_record_knows_its_area_box_and_mask():
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:5, 3:7] = True
    record = MaskRecord.from_mask(7, mask, predicted_iou=0.9, point_coords=[[4.0, 3.0]], category="cat")
    assert (record.area, record.bbox_xywh, record.size_hw) == (12, (3, 2, 4, 3), (6, 8))
    np.testing.assert_array_equal(record.mask, mask)
    assert record.to_sa1b() == {
        "id": 7,
        "segmentation": encode_rle(mask),
        "area": 12,
        "bbox": [3, 2, 4, 3],
        "predicted_iou": 0.9,
        "point_coords": [[4.0, 3.0]],
        "crop_box": [0, 0, 8, 6],
        "category": "cat",
    }


def test_extra_keys_never_overrule_the_record():
    record = MaskRecord.from_mask(
        1, np.ones((2, 2), bool), extra={"area": 5, "category": "dog", "note": 1}, category="cat"
    )
    entry = record.to_sa1b()
    assert (entry["area"], entry["category"], entry["note"]) == (4, "cat", 1)


def test_parents_are_found_by_id():
    whole, part = np.ones((4, 4), dtype=bool), np.eye(4, dtype=bool)
    records = with_parents([MaskRecord.from_mask(30, part), MaskRecord.from_mask(10, whole, parent_id=30)])
    assert [record.parent_id for record in records] == [10, None]


def test_ids_stay_or_are_numbered():
    assert whole_ids([5, 3]) == [5, 3]
    assert whole_ids([5, 5]) == whole_ids(["a", 2]) == whole_ids([None, True]) == [1, 2]
    code = encode_rle(np.ones((1, 1), bool))
    raw = [raw_record("w", code, {}), raw_record("p", code, {"parent_id": "w"})]
    assert [(record.id, record.parent_id) for record in number_records(raw, Problems(), "x")] == [(1, None), (2, 1)]


def test_plain_runs_become_text():
    (record,) = number_records([raw_record(1, {"size": [2, 2], "counts": [1, 2, 1]}, {})], Problems(), "x")
    assert record.segmentation == encode_rle(np.array([[0, 1], [1, 0]]))


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a.jpg", "a/../../b.jpg", "a\\b.jpg", "a\0.jpg", None, 7])
def test_file_names_stay_inside(name):
    with pytest.raises(DataError, match="file_name"):
        AnnotatedImage(name, (2, 2))


def test_records_have_the_images_size():
    record = MaskRecord.from_mask(3, np.ones((2, 3), bool))
    assert AnnotatedImage("x/y.b.jpg", (2, 3), (record,)).stem == "y.b"
    with pytest.raises(DataError, match="mask 3"):
        AnnotatedImage("x.jpg", (3, 2), (record,))
    with pytest.raises(DataError, match="size"):
        AnnotatedImage("x.jpg", (0, 2))
    with pytest.raises(DataError, match="1 ids for 2 masks"):
        AnnotatedImage("x.jpg", (2, 3), (record, record))
    with pytest.raises(DataError, match="mask 3 has parent_id 4"):
        AnnotatedImage("x.jpg", (2, 3), (replace(record, parent_id=4),))


@pytest.mark.parametrize(
    "entry",
    [
        {"predicted_iou": "high"},
        {"predicted_iou": float("nan")},
        {"stability_score": True},
        {"point_coords": [3, 4]},
        {"point_coords": {}},
        {"point_coords": [[1, 2, 3]]},
        {"crop_box": [0, 0, 5]},
        {"category": 7},
    ],
)
def test_facts_of_the_wrong_kind_are_refused(entry):
    with pytest.raises(DataError, match=next(iter(entry))):
        parse_facts(entry, ())


def test_problems_are_raised_or_collected():
    code = {"size": [2, 2], "counts": "04"}
    raw = [raw_record(1, code, {"parent_id": 9}), raw_record(1, code, {}), raw_record([2], code, {})]
    with pytest.raises(DataError, match="here: several masks have the same id"):
        number_records(raw, Problems(), "here")
    problems = Problems(collect=True)
    assert [record.id for record in number_records(raw, problems, "here")] == [1, 2, 3]
    assert [line.split(";")[0] for line in problems.found] == [
        "here: several masks have the same id",
        "here: mask 1: parent_id is 9",
    ]


def test_broken_codes_are_refused():
    for counts in ("1", [5], None):
        with pytest.raises(DataError, match="rle counts"):
            raw_record(1, {"size": [2, 2], "counts": counts}, {})
    with pytest.raises(DataError, match="rle counts"):
        raw_record(1, {"size": [2, 2]}, {})


def test_stated_numbers_are_compared():
    record = MaskRecord.from_mask(1, np.ones((4, 5), bool))
    check_stated(20, (0, 0, 5, 4), record)
    check_stated(20, (0, 0, 4, 3), record)  # to the last pixel, as the reference measures
    check_stated(18, (0, 0, 5, 4), record, area_slack=2)
    with pytest.raises(DataError, match="area is 19; the mask has 20"):
        check_stated(19, (0, 0, 5, 4), record)
    with pytest.raises(DataError, match="bbox"):
        check_stated(20, (0, 0, 3, 4), record)
    with pytest.raises(DataError, match="bbox"):
        check_stated(20, (0, 0, float("nan"), 4), record)
    with pytest.raises(DataError, match="area"):
        check_stated(20, (0, 0, 5, 4), replace(record, area=3))
