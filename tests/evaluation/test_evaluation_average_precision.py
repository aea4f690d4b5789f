"""Matching, precision and recall: by hand, and against pycocotools on random detections."""

from __future__ import annotations

import contextlib
import io
import math
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anymask.evaluation.average_precision import (
    IOU_THRESHOLDS,
    SIZES,
    Matches,
    average_precision,
    average_recall,
    match_image,
    take_objects,
)


def matches(scores: list[float], hits: list[int], positives: int, ignored: list[int] | None = None) -> Matches:
    """The same at every threshold."""
    shape = (len(IOU_THRESHOLDS), 1)
    is_ignored = np.array(ignored or [0] * len(hits), dtype=bool)
    return Matches(
        np.array(scores), np.tile(np.array(hits, bool), shape), np.tile(is_ignored, shape), positives=positives
    )


def test_average_precision_by_hand() -> None:
    # Right, wrong, right of two objects: precision 1 up to recall 0.5 (51 of the 101 points), then 2/3.
    found = average_precision([matches([0.9, 0.8, 0.7], [1, 0, 1], positives=2)])
    np.testing.assert_allclose(found, (51 * 1 + 50 * 2 / 3) / 101, rtol=1e-12)
    # The same over two images, and a detection that is ignored changes nothing.
    first = matches([0.9, 0.85, 0.7], [1, 0, 1], positives=2, ignored=[0, 1, 0])
    second = matches([0.8], [0], positives=0)
    np.testing.assert_allclose(average_precision([first, second]), found, rtol=1e-12)


def test_average_recall_by_hand() -> None:
    # Two of the image's three objects are found by the best two proposals, the third by the third.
    of_image = matches([0.9, 0.8, 0.7], [1, 1, 1], positives=3)
    assert [average_recall([of_image], limit) for limit in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    # Overlap 0.72 reaches five of the ten thresholds.
    one = match_image(
        np.ones(1), np.array([50.0]), np.array([[0.72]]), np.array([50.0]), np.zeros(1, bool), SIZES["small"]
    )
    assert average_recall([one], 10) == pytest.approx(0.5)


def test_without_objects_there_is_no_score() -> None:
    nothing = matches([0.5], [0], positives=0)
    assert math.isnan(average_recall([nothing], 10))
    assert np.isnan(average_precision([nothing])).all()


def test_who_takes_which_object() -> None:
    none = np.zeros(3, bool)
    # The first takes the object that it overlaps most, the second is left with the other, the third with none.
    ious = np.array([[0.6, 0.9, 0.0], [0.7, 0.8, 0.0], [0.4, 0.4, 0.4]])
    takes = take_objects(ious, none, none, np.array([0.5, 0.75]))
    assert takes.tolist() == [[1, 0, -1], [1, -1, -1]]
    # An object that is asked about goes before an ignored one of greater overlap; a crowd is never used up.
    ignored, crowd = np.array([False, True, True]), np.array([False, False, True])
    ious = np.array([[0.6, 0.9, 0.0], [0.6, 0.9, 0.0], [0.0, 0.9, 0.8], [0.0, 0.0, 0.8]])
    assert take_objects(ious, ignored, crowd, np.array([0.5])).tolist() == [[0, 1, 2, 2]]


def test_lvis_forgives_what_may_just_not_be_marked() -> None:
    def judge(is_exhaustive: bool) -> float:
        """A wrong detection before the right one."""
        of_image = match_image(
            np.array([0.9, 0.8]),
            np.full(2, 50.0),
            np.array([[0.0], [1.0]]),
            np.array([50.0]),
            np.zeros(1, bool),
            is_exhaustive=is_exhaustive,
        )
        return float(average_precision([of_image]).mean())

    assert judge(is_exhaustive=False) == pytest.approx(1.0)
    assert judge(is_exhaustive=True) == pytest.approx(0.5)


def random_masks(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    masks = np.zeros((24, 24, count), dtype=np.uint8, order="F")
    for index in range(count):
        (x0, x1), (y0, y1) = np.sort(rng.integers(0, 24, (2, 2)), axis=1)
        masks[y0 : y1 + 1, x0 : x1 + 1, index] = 1
    return [{"size": code["size"], "counts": code["counts"].decode()} for code in coco_mask.encode(masks)]


def random_set(rng: np.random.Generator) -> tuple[list[list[dict[str, Any]]], list[list[dict[str, Any]]]]:
    """Three images' objects and detections; areas are stretched so that all sizes occur."""
    truth, found = [], []
    for image in range(3):
        objects = [
            {"image_id": image + 1, "category_id": 1, "segmentation": rle, "iscrowd": int(rng.random() < 0.2)}
            | {"area": float(coco_mask.area(rle)) * 20}
            | {"bbox": coco_mask.toBbox(rle).tolist()}
            for rle in random_masks(rng, int(rng.integers(0, 6)))
        ]
        codes = random_masks(rng, int(rng.integers(0, 8))) + [
            thing["segmentation"] for thing in objects if rng.random() < 0.5
        ]
        # Few different scores, so that equals occur.
        detections = [
            {"image_id": image + 1, "category_id": 1, "segmentation": rle, "score": float(rng.integers(1, 6)) / 6}
            for rle in codes
        ]
        truth.append(objects)
        found.append(detections)
    return truth, found


def by_pycocotools(truth: list[list[dict[str, Any]]], found: list[list[dict[str, Any]]], limits: list[int]) -> COCOeval:
    annotations = [thing | {"id": index} for index, thing in enumerate(chain.from_iterable(truth), start=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        images = [{"id": image + 1, "height": 24, "width": 24} for image in range(3)]
        coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes([dict(entry) for entry in chain.from_iterable(found)]), "segm")
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_equal_to_pycocotools(seed: int) -> None:
    truth, found = random_set(np.random.default_rng(seed))
    if not any(found) or not any(truth):
        return
    limits = [1, 3, 100]
    reference = by_pycocotools(truth, found, limits)
    for size, (name, area_range) in enumerate(SIZES.items()):
        per_image = []
        for objects, detections in zip(truth, found, strict=True):
            order = np.argsort([-entry["score"] for entry in detections], kind="stable")
            ranked = [detections[index] for index in order]
            codes = [entry["segmentation"] for entry in ranked]
            crowd = np.array([bool(thing["iscrowd"]) for thing in objects], dtype=bool)
            ious = coco_mask.iou(codes, [thing["segmentation"] for thing in objects], crowd.astype(np.uint8))
            per_image.append(
                match_image(
                    np.array([entry["score"] for entry in ranked]),
                    np.array([float(coco_mask.area(code)) for code in codes]),
                    np.asarray(ious, dtype=np.float64).reshape(len(codes), len(objects)),
                    np.array([thing["area"] for thing in objects]),
                    crowd,
                    area_range,
                )
            )
        precision = reference.eval["precision"][:, :, 0, size, 2]
        expected = np.where((precision > -1).all(axis=1), precision.mean(axis=1), np.nan)
        np.testing.assert_allclose(average_precision(per_image), expected, atol=1e-10, err_msg=name)
        for place, limit in enumerate(limits):
            recall = reference.eval["recall"][:, 0, size, place]
            expected_recall = recall.mean() if (recall > -1).all() else math.nan
            np.testing.assert_allclose(average_recall(per_image, limit), expected_recall, atol=1e-10)
