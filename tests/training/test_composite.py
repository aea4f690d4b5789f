from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import nested_scene, small_config

from anymask.training import composite
from anymask.training.composite import MIN_AREA_SHARE, MIN_VISIBLE_SHARE, Pasting, draw_blob, left_of, paint, paste
from anymask.training.dataset import BatchDataset

seeds = st.integers(0, 2**32)
SIZE_HW = (40, 60)


def box_mask(top, left, bottom, right):
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


SCENE = np.full((*SIZE_HW, 3), 50, dtype=np.uint8)
DONOR = np.full((*SIZE_HW, 3), 200, dtype=np.uint8)
MASKS = np.stack([box_mask(0, 0, 20, 30), box_mask(10, 10, 38, 58), box_mask(30, 40, 40, 60)])
OBJECT = box_mask(5, 5, 15, 25)


@given(seeds)
def test_a_pasted_object_is_seen_whole_and_hides_what_is_under_it(seed):
    pasted = paste(SCENE, MASKS, DONOR, OBJECT, np.random.default_rng(seed))
    if pasted is None:
        return
    image, masks, hidden = pasted
    bright = image[..., 0] > 190  # only the donor is so bright; its edge is soft
    owner = [index for index in range(3) if bright.any() and (masks[index] & bright).sum() == bright.sum()]
    assert owner, "one mask holds all that was pasted"
    pasted_object = masks[owner[0]]
    assert (hidden == pasted_object).all()
    for mask, old in zip(masks, MASKS, strict=True):
        if (mask & pasted_object).any():
            assert (mask == pasted_object).all()  # one more of the hidden ones that it replaces
        else:
            assert (mask == (old & ~pasted_object)).all()
            assert mask.sum() >= MIN_VISIBLE_SHARE * old.sum()
    far = ~masks[owner[0]]
    assert (image[far] <= 140).all()


def test_masks_that_are_hidden_give_way():
    hides = np.stack([box_mask(0, 0, 30, 40)] * 2 + [CORNERS[1]])
    new = np.stack([box_mask(0, 0, 36, 50), box_mask(5, 5, 9, 9)])
    for new_khw, areas in ((new, [new[0].sum(), new[1].sum()]), (new[:1], [new[0].sum()] * 2)):
        masks = composite._in_front(hides, new_khw, np.random.default_rng(0))
        assert masks is not None
        assert sorted(mask.sum() for mask in masks) == sorted([*areas, CORNERS[1].sum()])


def test_what_is_hidden_for_the_most_part_is_no_answer_any_more():
    left = left_of(np.stack([box_mask(0, 0, 10, 10), box_mask(0, 0, 10, 20)]), box_mask(0, 0, 10, 8))
    assert [mask.sum() for mask in left] == [0, 120]


@pytest.mark.parametrize("cut_out", [box_mask(0, 0, 1, 1), box_mask(0, 0, 40, 50)], ids=["speck", "too large"])
def test_specks_and_scene_fillers_are_not_pasted(cut_out):
    assert all(paste(SCENE, MASKS, DONOR, cut_out, np.random.default_rng(seed)) is None for seed in range(5))


@given(seeds)
def test_a_blob_is_one_piece_of_fair_size(seed):
    blob = draw_blob((120, 160), np.random.default_rng(seed))
    assert blob.shape == (120, 160)
    assert 0 < blob.mean() < 0.35
    assert cv2.connectedComponents(blob.astype(np.uint8))[0] == 2


CORNERS = np.stack([box_mask(0, 0, 3, 3), box_mask(37, 0, 40, 3), box_mask(0, 57, 3, 60)])  # smaller than any blob


@given(seeds)
def test_paint_changes_its_own_pixels_alone_and_a_core_lies_inside_its_whole(seed):
    painted = paint(SCENE, CORNERS, np.random.default_rng(seed))
    if painted is None:
        return
    image, masks, hidden = painted
    is_new = (masks & ~CORNERS).any(axis=(1, 2))
    whole, core = sorted(masks[is_new], key=np.sum, reverse=True) if is_new.sum() == 2 else (masks[is_new][0],) * 2
    assert not (core & ~whole).any()
    assert (hidden == whole).all()
    assert (masks[~is_new] == (CORNERS[~is_new] & ~whole)).all()
    near = cv2.dilate(whole.view(np.uint8), np.ones((19, 19))).astype(bool)  # the softest edge
    changed = (image != SCENE).any(axis=2)
    assert changed[whole].mean() > 0.9
    assert not (changed & ~near).any()


def test_half_of_what_is_painted_has_a_core():
    painted = [paint(SCENE, CORNERS, np.random.default_rng(seed)) for seed in range(80)]
    has_core = [(kept[1] & ~CORNERS).any(axis=(1, 2)).sum() == 2 for kept in painted if kept is not None]
    assert len(has_core) > 40
    assert 0.3 < np.mean(has_core) < 0.7


def test_answers_lose_what_is_pasted_over_them(tmp_path):
    config, scene = nested_scene(tmp_path / "scene")
    pasting = Pasting(share=1.0, max_objects=2, painted_share=0.5)
    dataset = BatchDataset(replace(config, images_per_step=4, pasting=pasting), 0, 1)
    whole = torch.from_numpy(scene)
    fewer = 0
    for step in range(6):
        for answer in dataset[step].answers:
            assert answer.any()
            sources = [mask for mask in whole if not (answer & ~mask).any()]
            assert sources
            fewer += not any(torch.equal(answer, mask) for mask in sources)
    assert fewer > 0


def test_composites_are_repeatable_and_keep_padding_empty(scenes):
    config = small_config(scenes, images_per_step=4, masks_per_image=3, pasting=Pasting(share=1.0, painted_share=0.3))
    plain = BatchDataset(replace(config, pasting=Pasting()), 0, 1)
    changed = 0
    for step in range(4):
        batch, again = (BatchDataset(config, 0, 1)[step] for _ in range(2))
        assert torch.equal(batch.pixels, again.pixels)
        assert torch.equal(batch.masks, again.masks)
        changed += not torch.equal(batch.pixels, plain[step].pixels)
        for index, (height, width) in enumerate(batch.sizes_hw.tolist()):
            own = batch.masks[batch.image_index == index]
            assert not own[:, height:].any()
            assert not own[:, :, width:].any()
            assert not batch.pixels[index, :, height:].any()
        assert batch.masks.flatten(1).sum(dim=1).min() >= MIN_AREA_SHARE
    assert changed >= 2
