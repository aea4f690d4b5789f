import json
import tarfile
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import TRAIN_NAMES, VAL_NAMES, draw_scene, nested_scene, small_config

from anymask.data.sa1b import parse_annotations, read_json, read_sample, write_sa1b
from anymask.errors import DataError
from anymask.training.augment import Augmentation
from anymask.training.config import DataSource
from anymask.training.crops import draw_sample
from anymask.training.dataset import BatchDataset, open_source, training_batches

JITTER = Augmentation(scale_range=(0.7, 2.0), aspect_jitter=0.3, flip=True, colour=0.5)


def assert_same(one, other):
    for field in fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        assert (first is None and second is None) or torch.equal(first, second), field.name


def red_of(crops):
    """The images that crops (I, 3, S, S) come from, by the red that each scene has (see `draw_scene`)."""
    return {round(crop[0][crop[1:].amax(dim=0) > 0].float().median().item() / 20) for crop in crops}


@pytest.fixture
def config(scenes):
    return small_config(scenes, images_per_step=4, masks_per_image=3, augmentation=JITTER, total_steps=10)


def test_a_batch_is_what_the_training_step_expects(config):
    batch = BatchDataset(config, 0, 1)[0]
    assert batch.pixels.shape == (4, 3, 64, 64)
    assert batch.pixels.dtype == torch.uint8
    assert batch.masks.shape == (12, 64, 64)
    assert batch.masks.dtype == torch.bool
    assert batch.image_index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert batch.sizes_hw.shape == (4, 2)
    for pixels, (height, width) in zip(batch.pixels, batch.sizes_hw.tolist(), strict=True):
        assert (pixels[:, height:] == 0).all()
        assert (pixels[:, :, width:] == 0).all()
        assert pixels[:, height - 1, :width].any()


def test_the_same_seed_and_step_give_the_same_batch(config):
    for step in (0, 7):
        assert_same(BatchDataset(config, 0, 1)[step], BatchDataset(config, 0, 1)[step])
    first, second = BatchDataset(config, 0, 1)[0], BatchDataset(config, 0, 1)[1]
    assert not torch.equal(first.pixels, second.pixels)
    other_seed = BatchDataset(replace(config, seed=1), 0, 1)[0]
    assert not torch.equal(first.pixels, other_seed.pixels)
    slots = first.pixels.flatten(1).float()
    assert (torch.cdist(slots, slots) > 0).sum() == 12  # no slot repeats another


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_see_together_what_one_sees(config, world_size):
    config = replace(config, answers_per_image=2)
    for step in (0, 5):
        whole = BatchDataset(config, 0, 1)[step]
        parts = [BatchDataset(config, rank, world_size)[step] for rank in range(world_size)]
        for name in ("pixels", "sizes_hw", "masks", "answers"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
        share = 12 // world_size
        for part in parts:
            assert torch.equal(part.image_index, whole.image_index[:share])


def test_masks_are_never_empty_tiny_or_nearly_everything(config):
    dataset = BatchDataset(config, 0, 1)
    areas = torch.cat([dataset[step].masks.flatten(1).sum(dim=1) for step in range(10)])
    assert len(areas) == 120
    assert areas.min() >= config.min_area
    assert areas.max() <= config.max_area_share * 64 * 64


def test_a_mask_of_nearly_the_whole_image_is_left_out_however_it_is_cropped(scenes):
    sample = read_sample(scenes / "0.json").annotations  # the third is the whole image
    assert max(annotation.area for annotation in sample) == 96 * 120
    config = small_config(scenes, masks_per_image=6, max_area_share=0.9)
    for seed in range(20):
        drawn = draw_sample(read_sample(scenes / "0.png"), config, np.random.default_rng(seed))
        # Padding makes the whole image no more than 80% of its crop.
        assert drawn.masks_khw.mean(axis=(1, 2)).max() < 0.5


def test_masks_lie_on_their_objects(scenes):
    """Without jitter a crop is the scene resized, and its masks are the scene's."""
    config = small_config(scenes, crop_size=120, masks_per_image=3)
    for index in range(3):
        drawn = draw_sample(read_sample(scenes / f"{index}.png"), config, np.random.default_rng(0))
        image, masks = draw_scene(index)
        height, width = image.shape[:2]
        assert drawn.size_hw == (height, width)
        np.testing.assert_array_equal(drawn.image_hwc[:height], image)
        assert not drawn.masks_khw[:, height:].any()
        found = {mask[:height].tobytes() for mask in drawn.masks_khw}
        assert found == {mask.tobytes() for mask in masks}


def test_an_image_with_few_masks_repeats_them(scenes):
    config = small_config(scenes, masks_per_image=7)
    drawn = draw_sample(read_sample(scenes / "0.png"), config, np.random.default_rng(0))
    assert drawn.masks_khw.shape == (7, 64, 64)
    different = {mask.tobytes() for mask in drawn.masks_khw}
    assert len(different) == 3
    assert {mask.tobytes() for mask in drawn.masks_khw[:3]} == different  # each once before any twice


def test_held_out_images_never_come_into_training(config):
    source = config.sources[0]
    assert open_source(source, config.splits_file, "train").names == TRAIN_NAMES
    assert open_source(source, config.splits_file, "val").names == VAL_NAMES
    dataset = BatchDataset(replace(config, augmentation=Augmentation()), 0, 1)
    seen = set.union(*(red_of(dataset[step].pixels) for step in range(10)))
    assert seen == set(range(6))


def test_without_a_split_every_image_is_used(scenes):
    assert len(open_source(DataSource(str(scenes)), None, "train")) == len(TRAIN_NAMES + VAL_NAMES)


def one_image_folder(folder, red, masks):
    folder.mkdir()
    Image.fromarray(np.full((40, 40, 3), (red, 9, 9), dtype=np.uint8)).save(folder / "a.png")
    write_sa1b(folder / "a.json", "a.png", (40, 40), masks)
    return DataSource(str(folder))


def test_sources_are_drawn_by_weight(tmp_path):
    masks = np.zeros((1, 40, 40), dtype=bool)
    masks[0, 10:30, 10:30] = True
    sources = [one_image_folder(tmp_path / str(red), red, masks) for red in (50, 200)]
    sources = (replace(sources[0], weight=3), replace(sources[1], weight=1))
    config = small_config(tmp_path, sources=sources, splits_file=None, images_per_step=400)
    reds = BatchDataset(config, 0, 1)[0].pixels[:, 0, 5, 5]
    assert set(reds.tolist()) == {50, 200}
    assert (reds == 50).float().mean().item() == pytest.approx(0.75, abs=0.07)


def test_images_are_drawn_by_their_masks_when_there_are_some_to_choose_from(tmp_path):
    """With one choice each image is as likely; with many, nine of ten masks are the crowded image's."""
    crowded = np.zeros((9, 40, 40), dtype=bool)
    for index in range(9):
        crowded[index, :, 4 * index : 4 * index + 4] = True
    one_image_folder(tmp_path / "both", 200, crowded)
    Image.fromarray(np.full((40, 40, 3), 50, dtype=np.uint8)).save(tmp_path / "both" / "b.png")
    write_sa1b(tmp_path / "both" / "b.json", "b.png", (40, 40), crowded[:1])
    config = small_config(
        tmp_path, sources=(DataSource(str(tmp_path / "both")),), splits_file=None, images_per_step=400
    )
    for count, expected in ((1, 0.5), (12, 0.9)):
        reds = BatchDataset(replace(config, images_to_choose_from=count), 0, 1)[0].pixels[:, 0, 5, 5]
        assert (reds == 200).float().mean().item() == pytest.approx(expected, abs=0.07)


@pytest.mark.parametrize("name", ["masks_per_image", "images_to_choose_from"])
def test_a_batch_of_nothing_is_refused(config, name):
    with pytest.raises(DataError, match=f"{name} is 0; it must be 1 or more"):
        BatchDataset(replace(config, **{name: 0}), 0, 1)


def test_further_folders_teach_and_do_not_judge(tmp_path):
    own = (DataSource("a", weight=2, split="a/train"), DataSource("b", weight=1))
    config = small_config(tmp_path, sources=own)
    assert config.with_more([]) == config
    more = config.with_more(["c", "d"], share=0.75)
    assert more.validation_sources == own
    assert [source.folder for source in more.sources] == ["a", "b", "c", "d"]
    weights = [source.weight for source in more.sources]
    assert weights[:2] == [2, 1]
    assert weights[2] == weights[3]
    assert sum(weights[2:]) / sum(weights) == pytest.approx(0.75)
    assert more.with_more(["e"]).validation_sources == own


def test_a_source_without_a_usable_mask_is_named(tmp_path):
    masks = np.zeros((2, 40, 40), dtype=bool)
    masks[0] = True  # too large
    masks[1, 0, :2] = True  # too small
    source = one_image_folder(tmp_path / "poor", 1, masks)
    dataset = BatchDataset(small_config(tmp_path, sources=(source,), splits_file=None), 0, 1)
    with pytest.raises(DataError, match=r"poor: no usable mask.*at least 40 pixels.*at most 0\.9"):
        dataset[0]


def test_a_broken_mask_names_its_file(tmp_path):
    masks = np.zeros((1, 40, 40), dtype=bool)
    masks[0, 10:30, 10:30] = True
    source = one_image_folder(tmp_path / "broken", 1, masks)
    path = tmp_path / "broken" / "a.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"]["counts"] = [10, 20]
    path.write_text(json.dumps(content))
    dataset = BatchDataset(small_config(tmp_path, sources=(source,), splits_file=None), 0, 1)
    with pytest.raises(DataError, match=r"broken/a\.json"):
        dataset[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_in_the_order_of_their_steps(config, workers):
    loader = training_batches(replace(config, workers=workers), 7, 1, 2)
    batches = list(loader)
    assert len(batches) == 3
    for step, batch in zip((7, 8, 9), batches, strict=True):
        assert_same(batch, BatchDataset(config, 1, 2)[step])


@pytest.fixture
def as_tars(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("ANYMASK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "sa_000000.tar", "w") as tar:
        for path in sorted(scenes.iterdir()):
            tar.add(path, arcname=f"./{path.name}")
    return tmp_path / "tars"


def test_tars_are_trained_on_as_their_files_would_be(config, as_tars):
    from_files = replace(config, sources=(DataSource(config.sources[0].folder),))
    from_tars = replace(config, sources=(DataSource(str(as_tars)),))
    for step in range(3):
        assert_same(BatchDataset(from_files, 0, 1)[step], BatchDataset(from_tars, 0, 1)[step])


def test_a_share_is_held_out_of_files_and_tars(scenes, as_tars):
    for folder in (scenes, as_tars):
        source = DataSource(str(folder), val_share=0.25)
        held_out, trained_on = (
            {sample.image_path.name for sample in open_source(source, None, part)} for part in ("val", "train")
        )
        assert len(held_out) == 2
        assert len(trained_on) == 6
        assert not held_out & trained_on


def test_learning_with_less_uses_the_same_part_every_time(scenes):
    def names(**share):
        return {sample.image_path.name for sample in open_source(DataSource(str(scenes), **share), None, "train")}

    assert names(train_share=0.25) < names(train_share=0.5) < names()
    assert len(names(train_share=0.5)) == 4
    assert len(names(train_share=1e-6)) == 1


def test_what_may_be_whole_or_part_of_what_is_asked_for_comes_with_it(tmp_path):
    config, masks = nested_scene(tmp_path / "scene")
    sample = read_sample(tmp_path / "scene" / "a.png")
    answers_json = tmp_path / "scene" / "answers" / "a.json"
    others = parse_annotations(read_json(answers_json), answers_json)[1]
    others_of = {0: {1, 3}, 1: {0, 3}, 2: set()}
    seen = set()
    for seed in range(12):
        drawn = draw_sample(sample, config, np.random.default_rng(seed), others)
        (asked,) = (index for index, mask in enumerate(masks) if (mask == drawn.masks_khw[0]).all())
        seen.add(asked)
        found = [index for answer in drawn.answers_khw for index, mask in enumerate(masks) if (mask == answer).all()]
        assert sorted(found) == sorted(others_of[asked])
    assert seen == {0, 1, 2}
    fewer = (
        draw_sample(sample, replace(config, answers_per_image=1), np.random.default_rng(seed), others)
        for seed in range(6)
    )
    assert max(len(drawn.answers_khw) for drawn in fewer) == 1


def test_answers_are_numbered_by_image_and_without_a_wish_for_them_there_are_none(tmp_path):
    config, _ = nested_scene(tmp_path / "scene")
    batch = BatchDataset(replace(config, images_per_step=4), 0, 1)[0]
    assert len(batch.answers) == len(batch.answer_image_index) > 0
    for image, mask in zip(batch.image_index, batch.masks, strict=True):
        corner = mask[36, 36]
        assert (batch.answer_image_index == image).sum() == (0 if corner else 1)
    plain = BatchDataset(replace(config, images_per_step=4, answers_per_image=0), 0, 1)[0]
    assert plain.answers.shape == (0, 40, 40)
    assert torch.equal(plain.masks, batch.masks)
