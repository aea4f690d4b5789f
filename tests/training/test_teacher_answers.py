"""A teacher's answers to clicks: real models, small and untrained, and the packaged one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import draw_scene, nested_scene

import anymask
from anymask.data.sa1b import read_sample, write_sa1b
from anymask.errors import DataError
from anymask.geometry.masks import mask_iou_matrix
from anymask.geometry.rle import decode_rles
from anymask.model.registry import build_model
from anymask.training import teacher_answers
from anymask.training.dataset import BatchDataset
from anymask.training.teacher import TeacherFolder, keep_embedding, open_for_teacher, picture_key
from anymask.training.teacher_answers import answer_clicks, distinct, keep_answers


@pytest.fixture(scope="module")
def tiny():
    return anymask.load_model("tiny", device="cpu")


def asked(model, picture, folder):
    """The kept answers to the clicks on a picture's objects."""
    open_for_teacher(model, folder)
    keep_embedding(model, picture, folder)
    keep_answers(model, picture, folder)
    return folder / f"{picture_key(picture.read_bytes())}.json"


def test_answers_are_the_teachers_own(tiny, scenes, tmp_path):
    """Of a model whose embedding is not all that it decodes from: as the predictor answers."""
    kept = asked(tiny, scenes / "1.png", tmp_path)
    sample = read_sample(scenes / "1.png")
    answers = TeacherFolder(tmp_path).answers(sample)
    masks, _ = answer_clicks(tiny, sample, np.load(kept.with_suffix(".npy")))
    assert len(answers) == len(masks) > 0
    predictor = anymask.Predictor(tiny)
    predictor.set_image(draw_scene(1)[0])
    for mask, answer in zip(masks, answers, strict=True):
        assert mask.sum() == answer.area
        (click,) = answer.extra["point_coords"]
        best = mask_iou_matrix(mask[None], predictor.predict(points=[click], labels=[1], multimask=True).masks).max()
        assert best > 0.99
    stated = [answer.extra["predicted_iou"] for answer in answers]
    assert min(stated) >= teacher_answers.MIN_PREDICTED_IOU


def test_a_kept_embedding_is_decoded_without_its_padding(scenes, tmp_path, monkeypatch):
    """A model without skip maps answers from what is kept: where the picture's cells are, and never with padding."""
    for bar in ("MIN_PREDICTED_IOU", "MIN_STABILITY"):  # it has learned nothing
        monkeypatch.setattr(teacher_answers, bar, -10.0)
    monkeypatch.setattr(teacher_answers, "POINTS_PER_SIDE", 0)
    torch.manual_seed(0)
    model = build_model("conv").eval()
    picture = tmp_path / "wide.png"
    image, masks = draw_scene(1)
    Image.fromarray(image[:60]).save(picture)
    write_sa1b(picture.with_suffix(".json"), picture.name, image[:60].shape[:2], masks[:1, :60])
    kept = asked(model, picture, tmp_path / "seen")
    height, width = np.load(kept.with_suffix(".npy")).shape[1:]
    assert height < width
    answers = TeacherFolder(tmp_path / "seen").answers(read_sample(picture))
    assert 1 <= len(answers) <= 3
    assert all(answer.rle["size"] == [60, image.shape[1]] for answer in answers)


def test_what_nobody_annotated_is_asked_for_too(tiny, tmp_path):
    """One object of three is annotated: an answer lies on each of the others."""
    image, masks = draw_scene(1)
    picture = tmp_path / "one.png"
    Image.fromarray(image).save(picture)
    write_sa1b(picture.with_suffix(".json"), picture.name, image.shape[:2], masks[:1])
    answers = TeacherFolder(asked(tiny, picture, tmp_path / "seen").parent).answers(read_sample(picture))
    drawn = decode_rles([answer.rle for answer in answers], image.shape[:2])
    assert (mask_iou_matrix(masks, drawn).max(axis=1) > 0.7).all()


def test_only_good_and_distinct_masks_are_kept():
    masks = np.zeros((5, 10, 10), dtype=bool)
    masks[0, :5], masks[1, :5], masks[2, :5, :5], masks[3, 5:] = True, True, True, True
    logits = np.where(masks, 5.0, -5.0)
    kept = np.zeros((1, 10, 10), dtype=bool)
    kept[0, 5:] = True
    ious = np.array([0.8, 0.9, 0.75, 0.95, 0.99])  # the fourth is kept already, the fifth empty
    assert distinct(logits, ious, kept) == [1, 2]
    assert distinct(logits, ious, kept[:0]) == [3, 1, 2]
    assert distinct(logits, ious - 0.16, kept[:0]) == [3, 1]
    assert distinct(logits, ious - 0.5, kept[:0]) == []
    logits[1, 0] = 0.5  # a fifth of it would go with a little less confidence
    assert distinct(logits, ious, kept[:0]) == [3, 0, 2]


def test_pictures_without_objects_and_those_that_are_done_are_passed_over(tiny, scenes, tmp_path):
    alone = tmp_path / "alone.png"
    alone.write_bytes((scenes / "2.png").read_bytes())
    assert not asked(tiny, alone, tmp_path / "seen").exists()
    alone.with_suffix(".json").write_text('{"settings": 1}')  # something else
    assert not asked(tiny, alone, tmp_path / "seen").exists()
    kept = asked(tiny, scenes / "2.png", tmp_path / "seen")
    before = kept.stat().st_mtime_ns
    assert asked(tiny, scenes / "2.png", tmp_path / "seen").stat().st_mtime_ns == before
    alone.with_suffix(".json").write_text('{"image": {}, "annotations": []}')
    with pytest.raises(DataError, match=r"alone\.json: image height and width"):
        asked(tiny, alone, tmp_path / "seen")


def test_clicks_go_in_batches(tiny, scenes, tmp_path, monkeypatch):
    together = asked(tiny, scenes / "3.png", tmp_path / "one")
    monkeypatch.setattr(teacher_answers, "CLICKS_AT_ONCE", 1)
    apart = asked(tiny, scenes / "3.png", tmp_path / "other")
    for path in (together, apart):
        assert json.loads(path.read_text())["annotations"]
    found = [TeacherFolder(path.parent).answers(read_sample(scenes / "3.png")) for path in (together, apart)]
    one, other = ({answer.rle["counts"] for answer in answers} for answers in found)
    assert one & other


def test_answers_come_with_the_batch(tiny, tmp_path):
    config, _ = nested_scene(tmp_path / "scene")
    kept = asked(tiny, tmp_path / "scene" / "a.png", tmp_path / "seen")
    (tmp_path / "scene" / "answers" / "a.json").rename(kept)  # what it says of an even picture is nothing to test with
    config = replace(config, images_per_step=8, teacher=str(tmp_path / "seen"))
    batch, without = (BatchDataset(replace(config, teacher=teacher), 0, 1)[0] for teacher in (config.teacher, None))
    assert torch.equal(batch.masks, without.masks)
    assert len(batch.answers) > len(without.answers)
