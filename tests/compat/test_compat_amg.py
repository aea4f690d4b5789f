"""Every helper of automatic mask generation beside Meta's, on random inputs."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anymask.compat.segment_anything.utils import amg
from anymask.errors import AnymaskError, DataError

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@pytest.fixture(scope="module")
def metas(meta_package: ModuleType) -> ModuleType:
    return importlib.import_module("segment_anything.utils.amg")


def random_masks(seed: int, count: int, size_hw: tuple[int, int]) -> torch.Tensor:
    """Of every density, empty and full ones too."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((count, *size_hw)) < rng.choice([0, 0.1, 0.5, 0.9, 1], (count, 1, 1)))


@given(SEEDS, SIZES, st.integers(0, 4))
def test_codes(metas: ModuleType, seed: int, size_hw: tuple[int, int], count: int) -> None:
    masks = random_masks(seed, count, size_hw)
    rles = amg.mask_to_rle_pytorch(masks)
    assert rles == metas.mask_to_rle_pytorch(masks)
    for rle, mask in zip(rles, masks, strict=True):
        assert all(type(run) is int for run in rle["counts"])
        decoded = amg.rle_to_mask(rle)
        assert decoded.dtype == np.bool_
        assert np.array_equal(decoded, metas.rle_to_mask(rle))
        assert np.array_equal(decoded, mask.numpy())
        assert amg.area_from_rle(rle) == metas.area_from_rle(rle) == int(mask.sum())
        assert amg.coco_encode_rle(rle) == metas.coco_encode_rle(rle)


def test_broken_codes_are_refused() -> None:
    with pytest.raises(DataError):
        amg.rle_to_mask({"size": [2, 2], "counts": [1, 9]})


@given(SEEDS, SIZES, st.sampled_from([(), (3,), (2, 3)]))
def test_boxes_of_masks(metas: ModuleType, seed: int, size_hw: tuple[int, int], leading: tuple[int, ...]) -> None:
    masks = random_masks(seed, int(np.prod(leading)), size_hw).reshape(*leading, *size_hw)
    boxes = amg.batched_mask_to_box(masks)
    assert torch.equal(boxes, metas.batched_mask_to_box(masks))
    assert boxes.shape == (*leading, 4)


def test_boxes_of_no_masks(metas: ModuleType) -> None:
    for shape in ((0, 4, 5), (2, 0, 5), (2, 0, 4, 5)):
        masks = torch.zeros(shape, dtype=torch.bool)
        assert torch.equal(amg.batched_mask_to_box(masks), metas.batched_mask_to_box(masks))


@given(SEEDS, SIZES, st.floats(-1, 1), st.floats(0, 2))
def test_stability(metas: ModuleType, seed: int, size_hw: tuple[int, int], threshold: float, offset: float) -> None:
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (2, 3, *size_hw))).float()
    actual = amg.calculate_stability_score(logits, threshold, offset)
    expected = metas.calculate_stability_score(logits, threshold, offset)
    assert torch.equal(actual.isnan(), expected.isnan())
    assert torch.equal(actual.nan_to_num(), expected.nan_to_num())


def test_stability_of_a_very_wide_mask() -> None:
    """A row of more pixels than 16 bits count."""
    logits = torch.full((1, 1, 40_000), 5.0)
    logits[..., :10_000] = 0.5
    assert amg.calculate_stability_score(logits, 0.0, 1.0).tolist() == [0.75]


@given(st.integers(1, 9), st.integers(0, 3), st.integers(1, 3))
def test_point_grids(metas: ModuleType, per_side: int, layers: int, scale: int) -> None:
    assert np.allclose(amg.build_point_grid(per_side), metas.build_point_grid(per_side), atol=1e-12)
    if per_side < scale**layers:
        with pytest.raises(AnymaskError, match="n_per_side is 0"):
            amg.build_all_layer_point_grids(per_side, layers, scale)
        return
    ours, theirs = (module.build_all_layer_point_grids(per_side, layers, scale) for module in (amg, metas))
    assert len(ours) == len(theirs) == layers + 1
    for grid, expected in zip(ours, theirs, strict=True):
        assert np.allclose(grid, expected, atol=1e-12)


@given(st.tuples(st.integers(20, 3000), st.integers(20, 3000)), st.integers(0, 3), st.floats(0, 0.6))
def test_crops(metas: ModuleType, size_hw: tuple[int, int], layers: int, overlap: float) -> None:
    boxes, own_layers = amg.generate_crop_boxes(size_hw, layers, overlap)
    assert (boxes, own_layers) == metas.generate_crop_boxes(size_hw, layers, overlap)
    assert len(boxes) == sum(4**layer for layer in range(layers + 1))
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < x1 <= size_hw[1]
        assert 0 <= y0 < y1 <= size_hw[0]


@given(SEEDS, st.integers(0, 5))
def test_out_of_crops(metas: ModuleType, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    x0, y0 = (int(offset) for offset in rng.integers(0, 5, 2))
    crop_box = [x0, y0, x0 + 6, y0 + 4]
    boxes = torch.from_numpy(rng.integers(0, 9, (count, 4)))
    points = torch.from_numpy(rng.uniform(0, 9, (count, 2)))
    masks = torch.from_numpy(rng.random((count, 4, 6)) < 0.5)
    assert torch.equal(amg.uncrop_boxes_xyxy(boxes, crop_box), metas.uncrop_boxes_xyxy(boxes, crop_box))
    assert torch.equal(amg.uncrop_points(points, crop_box), metas.uncrop_points(points, crop_box))
    for given_boxes, given_points in ((boxes[:, None], points[:, None]), (boxes.float()[None], points[None])):
        ours, theirs = (module.uncrop_boxes_xyxy(given_boxes, crop_box) for module in (amg, metas))
        assert torch.equal(ours, theirs)
        ours, theirs = (module.uncrop_points(given_points, crop_box) for module in (amg, metas))
        assert torch.equal(ours, theirs)
    for size_hw in ((10, 12), (9, 11)):
        ours, theirs = (module.uncrop_masks(masks, crop_box, *size_hw) for module in (amg, metas))
        assert ours.shape == (count, *size_hw)
        assert torch.equal(ours, theirs)
    whole = amg.uncrop_masks(masks, [0, 0, 6, 4], 4, 6)
    assert whole is masks


@given(SEEDS, st.sampled_from([20.0, 3.0]))
def test_crop_edges(metas: ModuleType, seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    crop_box, image_box = [0, 40, 100, 120], [0, 0, 160, 120]
    boxes = torch.from_numpy(rng.integers(0, 100, (20, 4)))
    actual = amg.is_box_near_crop_edge(boxes, crop_box, image_box, tolerance)
    assert torch.equal(actual, metas.is_box_near_crop_edge(boxes, crop_box, image_box, tolerance))


def test_crop_edges_by_hand() -> None:
    """Near the crop's upper edge inside the image; near its left edge, which is the image's too; in the middle."""
    boxes = torch.tensor([[30, 5, 60, 40], [3, 30, 60, 50], [30, 30, 60, 50]])
    near = amg.is_box_near_crop_edge(boxes, [0, 40, 100, 120], [0, 0, 160, 120])
    assert near.tolist() == [True, False, False]


@given(SEEDS, SIZES, st.integers(0, 12), st.sampled_from(["holes", "islands"]))
def test_small_regions(metas: ModuleType, seed: int, size_hw: tuple[int, int], area: int, mode: Any) -> None:
    mask = random_masks(seed, 1, size_hw)[0].numpy()
    cleaned, is_changed = amg.remove_small_regions(mask, area, mode)
    expected, expected_changed = metas.remove_small_regions(mask, area, mode)
    assert np.array_equal(cleaned, expected)
    if mask.any() or mode == "holes":
        assert is_changed is expected_changed
    else:
        assert is_changed is False


def test_box_as_width_and_height(metas: ModuleType) -> None:
    for box in (torch.tensor([3, 4, 10, 20]), np.array([3, 4, 10, 20])):
        expected = metas.box_xyxy_to_xywh(box)
        assert amg.box_xyxy_to_xywh(box).tolist() == expected.tolist() == [3, 4, 7, 16]
        assert box.tolist() == [3, 4, 10, 20]
    assert amg.box_xyxy_to_xywh([3, 4, 10, 20]) == [3, 4, 7, 16]


@given(st.integers(0, 9), st.integers(1, 4))
def test_batches(metas: ModuleType, length: int, size: int) -> None:
    columns = (list(range(length)), np.arange(length) * 2)
    ours, theirs = (
        [[list(part) for part in batch] for batch in m.batch_iterator(size, *columns)] for m in (amg, metas)
    )
    assert ours == theirs
    assert all(len(batch[0]) <= size for batch in ours)


def test_batches_of_unequal_columns_are_refused() -> None:
    with pytest.raises(AnymaskError, match=r"\[2, 3\]"):
        next(amg.batch_iterator(2, [1, 2], [1, 2, 3]))


@given(SEEDS, st.floats(0.1, 0.9), st.integers(0, 30))
@settings(max_examples=30)
def test_suppression(meta_package: ModuleType, seed: int, threshold: float, count: int) -> None:
    """As torchvision's, or the stub's, that Meta's generator uses; every box has an area."""
    batched_nms = importlib.import_module("segment_anything.automatic_mask_generator").batched_nms
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 20, (count, 2))
    boxes = torch.from_numpy(np.concatenate([corners, corners + rng.integers(1, 20, (count, 2))], axis=1)).float()
    scores = torch.from_numpy(rng.integers(0, 5, count) / 5).float()
    actual = amg.box_nms(boxes, scores, threshold)
    assert actual.tolist() == batched_nms(boxes, scores, torch.zeros(count), threshold).tolist()


def test_boxes_without_area_suppress_nothing() -> None:
    """Of a mask one pixel wide: its box has no area, the last column included."""
    boxes = torch.tensor([[3, 3, 3, 8], [3, 3, 3, 8], [0, 0, 9, 9]])
    assert amg.box_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1, 2]


class TestMaskData:
    @staticmethod
    def columns(start: int = 0) -> dict[str, Any]:
        rows = np.arange(start, start + 4)
        return {"tensors": torch.from_numpy(rows) * 10, "arrays": rows * 100, "lists": [str(row) for row in rows]}

    @pytest.mark.parametrize("keep", [[True, False, True, False], [3, 0, 0], [], [False] * 4])
    def test_filter(self, metas: ModuleType, keep: list[Any]) -> None:
        rows = torch.tensor(keep, dtype=torch.bool if keep and isinstance(keep[0], bool) else torch.long)
        ours, theirs = amg.MaskData(**self.columns()), metas.MaskData(**self.columns())
        ours.filter(rows)
        theirs.filter(rows)
        self.assert_equal(ours, theirs)

    def test_cat_and_to_numpy(self, metas: ModuleType) -> None:
        built = []
        for module in (amg, metas):
            data = module.MaskData()
            first = module.MaskData(**self.columns())
            data.cat(first)
            data.cat(module.MaskData(**self.columns(9)))
            first["tensors"] += 1
            data.to_numpy()
            assert isinstance(data["tensors"], np.ndarray)
            built.append(data)
        self.assert_equal(*built)

    def test_items_can_be_set_and_deleted(self) -> None:
        data = amg.MaskData(a=[1, 2])
        data["b"] = np.zeros(2)
        del data["a"]
        assert [key for key, _ in data.items()] == ["b"]
        with pytest.raises(AssertionError, match="'c' is a tuple"):
            data["c"] = (1, 2)
        with pytest.raises(AssertionError, match="'d' is a str"):
            amg.MaskData(d="text")

    @staticmethod
    def assert_equal(ours: amg.MaskData, theirs: Any) -> None:
        assert dict(ours.items()).keys() == dict(theirs.items()).keys()
        for key, column in theirs.items():
            assert type(ours[key]) is type(column)
            assert list(ours[key]) == list(column)
