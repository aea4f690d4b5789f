import json
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import small_config

from anymask.errors import AnymaskError, DataError
from anymask.model.registry import build_model
from anymask.training.augment import Augmentation, Crop, draw_crop
from anymask.training.clicks import Draws
from anymask.training.composite import Pasting
from anymask.training.dataset import BatchDataset
from anymask.training.loop import train
from anymask.training.step import TrainingStep
from anymask.training.teacher import (
    CELL,
    TeacherFolder,
    TeacherHead,
    keep_embedding,
    open_for_teacher,
    picture_key,
    sample_crop,
    teacher_loss,
)


@pytest.fixture(scope="module")
def conv():
    """A small teacher of another kind than the student."""
    torch.manual_seed(0)
    return build_model("conv").eval()


@pytest.fixture(scope="module")
def taught(conv, scenes, tmp_path_factory):
    """A folder with the embeddings of all scenes but the first."""
    folder = tmp_path_factory.mktemp("teacher")
    open_for_teacher(conv, folder)
    for path in sorted(scenes.glob("*.png"))[1:]:
        keep_embedding(conv, path, folder)
    return folder


def places(height, width):
    """A feature map (2, h, w) whose numbers are the cells' middles, in cells: x, then y."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y])


def test_a_crop_gets_the_features_of_its_own_place():
    """A picture of 320x640 whose teacher has cells of 20 pixels; the crop shows 160 x 160 of it, twice as large."""
    crop = Crop((320, 640), x0=200, y0=100, x1=360, y1=260, target_hw=(320, 320), crop_size=384, is_flipped=False)
    sampled, is_image = sample_crop(places(16, 32), crop)
    assert sampled.shape == (2, 384 // CELL, 384 // CELL)
    assert is_image.sum() == (320 // CELL) ** 2
    middle = (torch.arange(40) + 0.5) * CELL  # in the crop
    torch.testing.assert_close(sampled[0, 3, :40], (200 + middle / 2) / 20)
    torch.testing.assert_close(sampled[1, :40, 3], (100 + middle / 2) / 20)
    flipped, _ = sample_crop(places(16, 32), replace(crop, is_flipped=True))
    torch.testing.assert_close(flipped[:, :40, :40], sampled[:, :40, :40].flip(2))


def test_a_crop_and_its_features_are_drawn_alike():
    """Pixels that say where they are, through the crop itself, against features that say it."""
    height, width = 300, 400
    y, x = np.mgrid[:height, :width]
    image = np.stack([x / 2, y / 2, 0 * x], axis=2).astype(np.uint8)
    for seed in range(20):
        jitter = Augmentation(scale_range=(0.7, 2.0), aspect_jitter=0.3, flip=True)
        crop = draw_crop((height, width), 128, jitter, np.random.default_rng(seed))
        drawn = crop.apply(image)[CELL // 2 :: CELL, CELL // 2 :: CELL]
        sampled, is_image = sample_crop(places(48, 64) * 400 / 64, crop)
        inner = is_image.clone()
        inner[:1] = inner[:, :1] = False
        inner &= torch.roll(inner, (-1, -1), (0, 1))  # at its border the picture has no neighbours to blend with
        error = np.abs(2.0 * drawn[..., :2].transpose(2, 0, 1) - sampled.numpy())[:, inner.numpy()]
        assert error.max() < 6  # half a cell of the crop and half a step of 2


def test_pictures_are_known_by_their_bytes(conv, taught, scenes, tmp_path):
    copy = tmp_path / "other name.png"
    copy.write_bytes((scenes / "3.png").read_bytes())
    before = {path: path.stat().st_mtime_ns for path in taught.iterdir()}
    open_for_teacher(conv, taught)
    keep_embedding(conv, copy, taught)
    assert {path: path.stat().st_mtime_ns for path in taught.iterdir()} == before
    assert (taught / f"{picture_key(copy.read_bytes())}.npy").exists()


def test_the_embedding_is_the_teachers(conv, taught, scenes):
    path = scenes / "4.png"
    pixels, frame = conv.preprocess(np.asarray(Image.open(path)))
    with torch.inference_mode():
        whole = conv.encode(pixels).embedding[0]
    kept = np.load(taught / f"{picture_key(path.read_bytes())}.npy")
    height, width = (-(-side // 16) for side in frame.resized_hw)
    assert kept.shape == (256, height, width)
    own = whole[:, : height - 4, : width - 4].numpy()  # away from the border where padding shows
    np.testing.assert_allclose(kept[:, : height - 4, : width - 4], own, atol=2e-2)


def test_another_teachers_folder_is_refused(taught):
    other = build_model("conv").eval()
    with pytest.raises(AnymaskError, match="holds embeddings of conv"):
        open_for_teacher(other, taught)


def test_a_folder_without_embeddings_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no teacher.json; allowed: a folder that `anymask teach` wrote"):
        TeacherFolder(tmp_path)
    (tmp_path / "teacher.json").write_text(json.dumps({"channels": 4}))
    with pytest.raises(DataError, match="holds no embeddings yet"):
        TeacherFolder(tmp_path)


def test_batches_say_what_the_teacher_knows(scenes, taught):
    config = small_config(scenes, images_per_step=8, teacher=str(taught))
    plain = BatchDataset(replace(config, teacher=None), 0, 1)[0]
    batch = BatchDataset(config, 0, 1)[0]
    assert torch.equal(batch.pixels, plain.pixels)  # a teacher changes nothing about what is drawn
    assert batch.teacher.shape == (8, 256, 64 // CELL, 64 // CELL)
    reds = [round(crop[0][crop[1:].amax(dim=0) > 0].float().median().item() / 20) for crop in batch.pixels]
    assert 0 in reds
    for red, knows, (height, width) in zip(reds, batch.teacher_knows, batch.sizes_hw.tolist(), strict=True):
        expected = torch.zeros(8, 8, dtype=torch.bool)
        if red:  # the first scene was not shown to it
            expected[: ceil(height / CELL - 0.5), : ceil(width / CELL - 0.5)] = True
        assert torch.equal(knows, expected)
    numbers = batch.teacher.float().permute(1, 0, 2, 3)[:, batch.teacher_knows]
    assert numbers.mean().abs() < 0.2
    assert 0.7 < numbers.std() < 1.3


def test_what_is_pasted_is_not_the_teachers(scenes, taught):
    config = small_config(scenes, images_per_step=8, teacher=str(taught), pasting=Pasting(share=1.0, max_objects=1))
    plain = BatchDataset(replace(config, pasting=Pasting()), 0, 1)[0]
    batch = BatchDataset(config, 0, 1)[0]
    forgotten = plain.teacher_knows & ~batch.teacher_knows
    assert forgotten.any()
    assert (batch.teacher_knows & ~plain.teacher_knows).sum() == 0
    is_changed = (batch.pixels != plain.pixels).any(dim=1)
    cells = is_changed.reshape(8, 8, CELL, 8, CELL).any(dim=4).any(dim=2)
    assert torch.equal(forgotten, plain.teacher_knows & cells)


def test_loss_counts_known_cells_alone():
    seen = torch.zeros(1, 2, 2, 2)
    drawn = torch.zeros(1, 2, 2, 2)
    drawn[0, 0, 0, 0], drawn[0, :, 1, 1] = 2.0, 100.0
    is_known = torch.tensor([[[True, True], [False, False]]])
    assert teacher_loss(drawn, seen, is_known).item() == pytest.approx(((4 + 0) / 2 + 0) / 2)
    assert teacher_loss(drawn, seen, torch.zeros_like(is_known)).item() == 0


@pytest.mark.parametrize("name", ["tiny", "conv"])
def test_the_encoder_learns_once_the_head_does(scenes, taught, name):
    config = small_config(scenes, model=name, teacher=str(taught))
    segmenter = build_model(name).train()
    step = TrainingStep(segmenter, config)
    batch = BatchDataset(config, 0, 1)[0]
    assert isinstance(step.teacher_head, TeacherHead)
    loss, curves = step(batch, Draws(0))
    plain, _ = TrainingStep(segmenter, replace(config, teacher=None))(batch, Draws(0))
    assert loss.item() == pytest.approx(plain.item() + curves["loss_teacher"].item(), rel=1e-4)
    loss.backward()
    weight = step.teacher_head.from_embedding.weight
    assert weight.grad.abs().max() > 0
    before = curves["loss_teacher"].item()
    with torch.no_grad():
        for parameter in step.teacher_head.parameters():
            parameter.sub_(0.01 * parameter.grad)
    assert step(batch, Draws(0))[1]["loss_teacher"].item() < before


def test_a_taught_run_resumes_to_the_bit(scenes, taught, tmp_path):
    config = small_config(scenes, total_steps=4, teacher=str(taught), save_every=2)
    train(config, tmp_path / "whole", device="cpu")
    train(config, tmp_path / "parts", device="cpu", max_steps=2)
    train(config, tmp_path / "parts", device="cpu")
    states = [torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("whole", "parts")]
    for part in ("model", "teacher_head"):
        assert states[0][part].keys() == states[1][part].keys()
        for key, value in states[0][part].items():
            assert torch.equal(value, states[1][part][key]), key
    assert states[0]["teacher_head"]["from_embedding.weight"].abs().max() > 0
