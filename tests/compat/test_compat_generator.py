"""`SamAutomaticMaskGenerator` beside Meta's, on the same weights and a small image."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from compat_networks import BlobDecoder, Pair, build_compatible_sam
from small_networks import SMALL
from torch import Tensor, nn

import anymask.compat.segment_anything.automatic_mask_generator as generator_module
from anymask.compat.segment_anything import SamAutomaticMaskGenerator, SamPredictor
from anymask.compat.segment_anything.modeling import Sam
from anymask.compat.segment_anything.utils.amg import MaskData, calculate_stability_score, mask_to_rle_pytorch
from anymask.errors import AnymaskError
from anymask.geometry.masks import mask_iou_matrix
from anymask.geometry.rle import decode_rle

KEYS = {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"}
Record = dict[str, Any]


@pytest.fixture(scope="module")
def blob_sam(compatible_sam: Sam) -> Sam:
    """The network with a decoder whose masks are things of the size of a click's neighbourhood."""
    sam = build_compatible_sam()
    sam.load_state_dict(compatible_sam.state_dict())
    sam.mask_decoder = BlobDecoder()
    return sam


@pytest.fixture(scope="module")
def blob_pair(blob_sam: Sam, compatible_sam: Sam, build_meta_sam: Callable[[], nn.Module]) -> Pair:
    metas = build_meta_sam()
    metas.load_state_dict(compatible_sam.state_dict())
    metas.mask_decoder = BlobDecoder()
    return Pair(blob_sam, metas)


@pytest.fixture(scope="module")
def thresholds(blob_sam: Sam, scene: np.ndarray) -> dict[str, float]:
    """Such that 5 to 20% of the masks pass."""
    predictor = SamPredictor(blob_sam)
    predictor.set_image(scene)
    grid = np.stack(np.meshgrid(np.linspace(5, 95, 8), np.linspace(5, 70, 8)), axis=-1).reshape(-1, 1, 2)
    points = torch.from_numpy(predictor.transform.apply_coords(grid, scene.shape[:2]))
    logits, ious, _ = predictor.predict_torch(points, torch.ones(64, 1), return_logits=True)
    stability = calculate_stability_score(logits, 0.0, 0.2).nan_to_num()
    iou_limit, stable_limit = float(ious.quantile(0.6)), float(stability.quantile(0.6))
    share = ((ious > iou_limit) & (stability >= stable_limit)).float().mean()
    assert 0.05 < share < 0.2
    return {
        "pred_iou_thresh": iou_limit,
        "stability_score_thresh": stable_limit,
        "stability_score_offset": 0.2,
        "points_per_side": 8,
        "points_per_batch": 20,
    }


def assert_same_records(actual: list[Record], expected: list[Record], at_least: int = 5) -> None:
    """As many, and each with its like: masks that overlap by 0.99 and the same numbers."""
    assert len(actual) == len(expected) >= at_least
    for ours, metas in zip(actual, expected, strict=True):
        assert set(ours) == set(metas) == KEYS
        assert ours["crop_box"] == metas["crop_box"]
        assert np.allclose(ours["point_coords"], metas["point_coords"])
        assert ours["predicted_iou"] == pytest.approx(metas["predicted_iou"], abs=1e-4)
        assert ours["stability_score"] == pytest.approx(metas["stability_score"], abs=1e-2)
        assert ours["bbox"] == pytest.approx(metas["bbox"], abs=1)
        assert ours["area"] == pytest.approx(metas["area"], rel=0.01)
    masks, expected_masks = (np.stack([record["segmentation"] for record in both]) for both in (actual, expected))
    assert masks.dtype == np.bool_
    assert np.diag(mask_iou_matrix(masks, expected_masks)).min() >= 0.99


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "strict suppression": {"box_nms_thresh": 0.3},
    "crops": {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "box_nms_thresh": 0.9},
    "two layers of crops": {
        "crop_n_layers": 2,
        "crop_n_points_downscale_factor": 2,
        "points_per_side": 4,
        "crop_overlap_ratio": 0.4,
    },
    "small regions": {"min_mask_region_area": 40},
    "small regions in crops": {"crop_n_layers": 1, "points_per_side": 4, "min_mask_region_area": 10},
    "own grid": {"points_per_side": None, "point_grids": [np.random.default_rng(0).random((30, 2))]},
    "one batch": {"points_per_batch": 1000},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_records_are_metas(
    blob_pair: Pair, meta_package: ModuleType, thresholds: dict[str, float], scene: np.ndarray, kind: str
) -> None:
    arguments = {**thresholds, **OPTIONS[kind]}
    actual = SamAutomaticMaskGenerator(blob_pair.ours, **arguments).generate(scene)
    expected = meta_package.SamAutomaticMaskGenerator(blob_pair.metas, **arguments).generate(scene)
    assert_same_records(actual, expected)


def test_forms_of_the_masks(blob_sam: Sam, thresholds: dict[str, float], scene: np.ndarray) -> None:
    binary, plain, coco = (
        SamAutomaticMaskGenerator(blob_sam, output_mode=mode, **thresholds).generate(scene)
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    )
    assert len(binary) == len(plain) == len(coco) > 3
    for record, as_runs, as_text in zip(binary, plain, coco, strict=True):
        assert record["segmentation"].shape == scene.shape[:2]
        assert record["area"] == int(record["segmentation"].sum()) > 0
        assert isinstance(as_runs["segmentation"]["counts"], list)
        assert isinstance(as_text["segmentation"]["counts"], str)
        for code in (as_runs["segmentation"], as_text["segmentation"]):
            assert np.array_equal(decode_rle(code), record["segmentation"])
        assert {type(value) for value in record["bbox"] + record["crop_box"]} == {int}


def test_memory_is_bounded_and_changes_nothing(
    blob_sam: Sam, thresholds: dict[str, float], scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few masks fit at a time, the answer is the same; never more are brought to full size at once."""
    generator = SamAutomaticMaskGenerator(blob_sam, **thresholds)
    expected = generator.generate(scene)
    seen: list[int] = []
    postprocess = Sam.postprocess_masks

    def counting(self: Sam, masks: Tensor, *sizes: tuple[int, ...]) -> Tensor:
        seen.append(masks.shape[0] * masks.shape[1])
        return postprocess(self, masks, *sizes)

    monkeypatch.setattr(Sam, "postprocess_masks", counting)
    monkeypatch.setattr(generator_module, "PIXELS_AT_ONCE", 3 * int(SMALL["input_size"]) ** 2)
    assert_same_records(generator.generate(scene), expected)
    assert max(seen) == 3


def test_a_predictor_of_the_callers_own_is_used(blob_sam: Sam, thresholds: dict[str, float], scene: np.ndarray) -> None:
    """With a `predict_torch` of its own, whatever it does."""

    class Own(SamPredictor):
        calls = 0

        def predict_torch(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
            type(self).calls += 1
            return super().predict_torch(*args, **kwargs)

    generator = SamAutomaticMaskGenerator(blob_sam, **thresholds)
    expected = generator.generate(scene)
    generator.predictor = Own(blob_sam)
    assert_same_records(generator.generate(scene), expected)
    assert Own.calls == 4


def test_a_predictor_of_metas_is_used(
    blob_pair: Pair, meta_package: ModuleType, thresholds: dict[str, float], scene: np.ndarray
) -> None:
    generator = SamAutomaticMaskGenerator(blob_pair.ours, **thresholds)
    expected = generator.generate(scene)
    generator.predictor = meta_package.SamPredictor(blob_pair.metas)
    assert_same_records(generator.generate(scene), expected)


@pytest.mark.parametrize("layers", [0, 1])
def test_nothing_found(compatible_sam: Sam, scene: np.ndarray, layers: int) -> None:
    generator = SamAutomaticMaskGenerator(
        compatible_sam, points_per_side=2, pred_iou_thresh=1e6, crop_n_layers=layers, min_mask_region_area=5
    )
    assert generator.generate(scene) == []


def test_the_networks_own_masks(pair: Pair, meta_package: ModuleType, scene: np.ndarray) -> None:
    """Speckles all over the image, for the weights are random: all have the same box, and one is left of each crop."""
    arguments = {"points_per_side": 4, "pred_iou_thresh": 0.1, "stability_score_thresh": 0.2, "crop_n_layers": 1}
    arguments |= {"crop_nms_thresh": 0.95, "stability_score_offset": 0.2}
    actual = SamAutomaticMaskGenerator(pair.ours, **arguments).generate(scene)
    assert_same_records(actual, meta_package.SamAutomaticMaskGenerator(pair.metas, **arguments).generate(scene), 1)


def test_no_filters(blob_pair: Pair, meta_package: ModuleType, scene: np.ndarray) -> None:
    """A threshold of zero lets every mask through, as in proposals for a detector."""
    arguments = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.95}
    actual = SamAutomaticMaskGenerator(blob_pair.ours, **arguments).generate(scene)
    assert_same_records(actual, meta_package.SamAutomaticMaskGenerator(blob_pair.metas, **arguments).generate(scene))


def test_defaults_are_attributes(compatible_sam: Sam, meta_package: ModuleType, pair: Pair) -> None:
    ours = SamAutomaticMaskGenerator(compatible_sam)
    metas = meta_package.SamAutomaticMaskGenerator(pair.metas)
    assert ours.predictor.model is compatible_sam
    for name, expected in vars(metas).items():
        if name == "point_grids":
            assert np.allclose(ours.point_grids[0], expected[0])
        elif name != "predictor":
            assert getattr(ours, name) == expected, name


def test_arguments_that_contradict(compatible_sam: Sam) -> None:
    with pytest.raises(AnymaskError, match="points_per_side"):
        SamAutomaticMaskGenerator(compatible_sam, points_per_side=None)
    with pytest.raises(AssertionError, match="points_per_side"):
        SamAutomaticMaskGenerator(compatible_sam, point_grids=[np.zeros((1, 2))])
    with pytest.raises(AssertionError, match="'png'"):
        SamAutomaticMaskGenerator(compatible_sam, output_mode="png")


def test_small_regions_by_hand() -> None:
    """A hole is filled, an island dropped; the mask so changed yields to its like that was left alone."""
    clean = np.zeros((20, 20), dtype=bool)
    clean[2:12, 2:12] = True
    spoilt = clean.copy()
    spoilt[5, 5] = False
    spoilt[18, 18] = True
    other = np.zeros((20, 20), dtype=bool)
    other[14:19, 3:9] = True
    masks = torch.from_numpy(np.stack([spoilt, clean, other]))
    data = MaskData(
        rles=mask_to_rle_pytorch(masks), boxes=np.zeros((3, 4), dtype=int), names=["spoilt", "clean", "other"]
    )
    kept = SamAutomaticMaskGenerator.postprocess_small_regions(data, 4, 0.7)
    assert kept["names"] == ["clean", "other"]
    alone = MaskData(rles=mask_to_rle_pytorch(masks[:1]), boxes=np.zeros((1, 4), dtype=int))
    kept = SamAutomaticMaskGenerator.postprocess_small_regions(alone, 4, 0.7)
    assert np.array_equal(decode_rle(kept["rles"][0]), clean)
    assert kept["boxes"].tolist() == [[2, 2, 11, 11]]
