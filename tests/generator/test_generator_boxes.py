"""The objects in given boxes, against the predictor, which keeps everything at full size."""

import json

import numpy as np
import pytest
from PIL import Image

from anymask import Predictor
from anymask.data.coco import read_coco
from anymask.data.detections import DetectedImage, Detection, digest
from anymask.errors import DataError, PromptError
from anymask.generator.boxes import segment_detections
from anymask.generator.finders import DetectedObjects, Job
from anymask.generator.folder import FolderRun, find_jobs, with_detections, work_in_turn

BOXES = [(12, 17, 68, 53), (95, 10, 135, 70), (30.5, 78, 57, 102.5), (-5, -5, 200, 200)]


@pytest.fixture
def detections():
    return [Detection(box, "abcd"[index], 0.9 - index / 10, 40 + index, 3) for index, box in enumerate(BOXES)]


@pytest.mark.parametrize("is_refined", [False, True])
def test_masks_are_the_predictors_best(random_tiny, photo, detections, is_refined):
    predictor = Predictor(random_tiny)
    predictor.set_image(photo.image)
    calls = []
    records = segment_detections(
        random_tiny, photo.image, detections, is_refined=is_refined, progress=lambda *call: calls.append(call)
    )
    assert calls[-1] == (4, 4)
    assert [record.id for record in records] == [40, 41, 42, 43]
    for record, detection in zip(records, detections, strict=True):
        masks = predictor.predict(box=detection.box_xyxy)
        if is_refined:
            masks = predictor.predict(box=detection.box_xyxy, mask_logits=masks.logits[0])
        assert record.predicted_iou == pytest.approx(masks.scores[0], abs=1e-4)
        assert (record.mask != masks.best).sum() <= 20  # a batch rounds otherwise than a single box
        x0, y0, x1, y1 = detection.box_xyxy
        assert record.category == detection.category
        assert record.extra == {"score": detection.score, "category_id": 3, "prompt_box": [x0, y0, x1 - x0, y1 - y0]}


def test_batches_and_memory_change_nothing(random_tiny, photo, detections):
    whole = segment_detections(random_tiny, photo.image, detections)
    one_by_one = segment_detections(random_tiny, photo.image, detections, memory_mb=0.1)
    for record, other in zip(whole, one_by_one, strict=True):
        assert (record.mask != other.mask).sum() <= 20


def test_the_region_of_interest_cuts_masks_and_empty_ones_go(random_tiny, photo, detections):
    roi = np.zeros(photo.image.shape[:2], bool)
    roi[:2, :2] = True
    whole = segment_detections(random_tiny, photo.image, detections)
    kept = segment_detections(random_tiny, photo.image, detections, roi=roi)
    assert {record.id for record in kept} == {record.id for record in whole if record.mask[:2, :2].any()}
    assert not any(record.mask[~roi].any() for record in kept)


def test_no_boxes_no_masks(random_tiny, photo):
    assert segment_detections(random_tiny, photo.image, []) == []


@pytest.mark.parametrize("box", [(500, 0, 600, 50), (10, 10, 10, 20)])
def test_a_box_that_cannot_be_answered_is_named(random_tiny, photo, box):
    with pytest.raises(PromptError, match=r"boxes\[1\]: box="):
        segment_detections(random_tiny, photo.image, [Detection(BOXES[0]), Detection(box)])


def images_of(*names):
    return [DetectedImage(name, (Detection(BOXES[0]),), index) for index, name in enumerate(names)]


def test_boxes_find_their_images():
    jobs = [Job(name, name) for name in ("x/a.jpg", "y/a.jpg", "b.jpg", "c.jpg")]
    named = with_detections(jobs, images_of("x/a.jpg", "train/b.jpg", "elsewhere.jpg"))
    assert [(job.name, job.image_id) for job in named] == [("x/a.jpg", 0), ("b.jpg", 1)]
    with pytest.raises(DataError, match=r"the first here is b\.jpg, the first with boxes d\.jpg"):
        with_detections(jobs[2:], images_of("d.jpg"))


def test_a_folder_with_its_detector_goes_on_where_it_was_broken_off(random_tiny, photo, detections, tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(photo.image).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no picture")
    images = [
        DetectedImage(name, tuple(detections), 10 + index) for index, name in enumerate(("a.png", "b.png", "c.png"))
    ]
    jobs = with_detections(find_jobs([tmp_path], False, tmp_path / "out"), images)
    run = FolderRun(tmp_path / "out", DetectedObjects(digest(images)), "coco", overlay=True)
    run.prepare(random_tiny, jobs)
    assert next(work_in_turn(run, random_tiny, jobs)).masks == 4
    assert [run.is_done(job) for job in jobs] == [True, False, False]
    outcomes = list(work_in_turn(run, random_tiny, [job for job in jobs if not run.is_done(job)]))
    assert [outcome.reason is None for outcome in outcomes] == [True, False]
    run.finish(jobs)
    read = list(read_coco(run.out))
    assert [(image.file_name, image.image_id) for image in read] == [("a.png", 10), ("b.png", 11)]
    assert [record.category for record in read[1].records] == ["a", "b", "c", "d"]
    # All four categories state the same number, which cannot be: they are numbered as they come.
    content = json.loads((run.out / "annotations.json").read_text())
    assert [category["id"] for category in content["categories"]] == [1, 2, 3, 4]
    with Image.open(run.overlay_path(jobs[0])) as overlay:
        assert overlay.size == (160, 120)
    other = FolderRun(run.out, DetectedObjects(digest(images[:1])), "coco", overlay=True)
    with pytest.raises(DataError, match="boxes was"):
        other.prepare(random_tiny, jobs)
