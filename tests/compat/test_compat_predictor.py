"""`SamPredictor` beside Meta's, on the same weights."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from compat_networks import Pair, assert_near, assert_same_masks
from small_networks import SMALL
from torch import Tensor

from anymask.compat.segment_anything import SamPredictor
from anymask.compat.segment_anything.modeling import Sam
from anymask.errors import AnymaskError

LOW = int(SMALL["input_size"]) // 4


@pytest.fixture(scope="module")
def predictors(pair: Pair, meta_package: ModuleType, scene: np.ndarray) -> tuple[SamPredictor, Any]:
    """Ours and Meta's with the image set."""
    ours, metas = SamPredictor(pair.ours), meta_package.SamPredictor(pair.metas)
    for predictor in (ours, metas):
        predictor.set_image(scene)
    return ours, metas


@pytest.fixture
def predictor(compatible_sam: Sam, scene: np.ndarray) -> SamPredictor:
    predictor = SamPredictor(compatible_sam)
    predictor.set_image(scene)
    return predictor


def earlier_logits() -> np.ndarray:
    return np.random.default_rng(2).normal(0, 5, (1, LOW, LOW)).astype(np.float32)


PROMPTS: dict[str, dict[str, Any]] = {
    "one point": {"point_coords": np.array([[40, 30]]), "point_labels": np.array([1])},
    "points": {"point_coords": np.array([[40.5, 30], [70, 60], [5, 5]]), "point_labels": np.array([1, 1, 0])},
    "box": {"box": np.array([20, 10, 60, 50])},
    "box and point": {
        "box": np.array([20.0, 10, 60, 50]),
        "point_coords": np.array([[30, 30]]),
        "point_labels": np.array([0]),
    },
    "mask": {"mask_input": earlier_logits()},
    "point and mask": {
        "point_coords": np.array([[40, 30]]),
        "point_labels": np.array([1]),
        "mask_input": earlier_logits(),
    },
    "nothing": {},
}


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("logits", [True, False])
def test_predict_is_metas(
    predictors: tuple[SamPredictor, Any], kind: str, multimask: bool, logits: bool, scene: np.ndarray
) -> None:
    arguments = {**PROMPTS[kind], "multimask_output": multimask, "return_logits": logits}
    (masks, ious, low_res), expected = (predictor.predict(**arguments) for predictor in predictors)
    count = 3 if multimask else 1
    assert masks.shape == (count, *scene.shape[:2])
    assert low_res.shape == (count, LOW, LOW)
    (assert_near if logits else assert_same_masks)(masks, expected[0])
    assert_near(ious, expected[1])
    assert_near(low_res, expected[2])


def test_state_after_an_image_is_metas(predictors: tuple[SamPredictor, Any], scene: np.ndarray) -> None:
    ours, metas = predictors
    assert ours.is_image_set is metas.is_image_set is True
    assert ours.original_size == tuple(metas.original_size) == scene.shape[:2]
    assert ours.input_size == tuple(metas.input_size)
    assert ours.device == metas.device
    assert_near(ours.features, metas.features)
    assert ours.get_image_embedding() is ours.features


@pytest.mark.parametrize("kind", ["points", "boxes", "points and boxes", "boxes and masks"])
def test_predict_torch_is_metas(predictors: tuple[SamPredictor, Any], scene: np.ndarray, kind: str) -> None:
    """Four objects in one batch, by the way that the notebooks go: `transform`, then `predict_torch`."""
    rng = np.random.default_rng(3)
    corners = torch.from_numpy(np.sort(rng.uniform(5, 70, (4, 2, 2)), axis=1).reshape(4, 4))
    points = torch.from_numpy(rng.uniform(5, 70, (4, 2, 2)))
    answers = []
    for predictor in predictors:
        boxes = predictor.transform.apply_boxes_torch(corners, scene.shape[:2])
        coords = predictor.transform.apply_coords_torch(points, scene.shape[:2])
        answers.append(
            predictor.predict_torch(
                point_coords=coords if "points" in kind else None,
                point_labels=torch.tensor([[1, 0]] * 4) if "points" in kind else None,
                boxes=boxes if "boxes" in kind else None,
                mask_input=torch.from_numpy(np.stack([earlier_logits()] * 4)) if "masks" in kind else None,
                multimask_output=False,
            )
        )
    (masks, ious, low_res), expected = answers
    assert masks.shape == (4, 1, *scene.shape[:2])
    assert masks.dtype == torch.bool
    assert_same_masks(masks, expected[0])
    assert_near(ious, expected[1])
    assert_near(low_res, expected[2])


def test_other_orders_of_channels(pair: Pair, meta_package: ModuleType, scene: np.ndarray) -> None:
    ours, metas = SamPredictor(pair.ours), meta_package.SamPredictor(pair.metas)
    ours.set_image(scene)
    as_rgb = ours.features
    ours.set_image(scene[..., ::-1], image_format="BGR")
    assert torch.equal(ours.features, as_rgb)
    ours.set_image(scene, "BGR")
    metas.set_image(scene, "BGR")
    assert_near(ours.features, metas.features)
    assert not torch.equal(ours.features, as_rgb)


def test_torch_images(predictors: tuple[SamPredictor, Any], compatible_sam: Sam, scene: np.ndarray) -> None:
    other = SamPredictor(compatible_sam)
    resized = other.transform.apply_image(scene)
    other.set_torch_image(torch.from_numpy(resized).permute(2, 0, 1)[None], scene.shape[:2])
    assert torch.equal(other.features, predictors[0].features)


def test_masks_of_different_mask_inputs_differ(predictor: SamPredictor) -> None:
    """A rough mask alone is a prompt."""
    first = predictor.predict(mask_input=earlier_logits())[2]
    assert np.abs(first - predictor.predict(mask_input=-earlier_logits())[2]).max() > 0.1
    assert np.abs(first - predictor.predict()[2]).max() > 0.1


@pytest.mark.parametrize("with_boxes", [False, True])
@pytest.mark.parametrize("with_masks", [False, True])
def test_padding_changes_no_answer(predictor: SamPredictor, with_boxes: bool, with_masks: bool) -> None:
    """Objects with one, three and two points in one batch; where there is something else also one with none."""
    rng = np.random.default_rng(4)
    coords = torch.from_numpy(rng.uniform(5, 200, (4, 3, 2))).float()
    labels = torch.tensor([[1, -1, -1], [1, 0, 1], [-1, 1, 0], [-1, -1, -1]])
    boxes = torch.from_numpy(np.sort(rng.uniform(5, 200, (4, 2, 2)), axis=1).reshape(4, 4)).float()
    masks = torch.from_numpy(rng.normal(0, 4, (4, 1, LOW, LOW))).float()
    count = 4 if with_boxes or with_masks else 3

    def ask(rows: slice, kept: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        return predictor.predict_torch(
            coords[rows, kept] if kept else None,
            labels[rows, kept] if kept else None,
            boxes[rows] if with_boxes else None,
            masks[rows] if with_masks else None,
            return_logits=True,
        )

    batch = ask(slice(0, count), [0, 1, 2])
    for row, kept in enumerate([[0], [0, 1, 2], [1, 2], []][:count]):
        for together, alone in zip(batch, ask(slice(row, row + 1), kept), strict=True):
            assert_near(together[row : row + 1], alone, 1e-5)


def test_reset_leaves_nothing(predictor: SamPredictor) -> None:
    predictor.reset_image()
    assert (predictor.is_image_set, predictor.features) == (False, None)
    assert (predictor.original_size, predictor.input_size) == (None, None)
    for ask in (predictor.predict, predictor.get_image_embedding, lambda: predictor.predict_torch(None, None)):
        with pytest.raises(AnymaskError, match="no image is set"):
            ask()
        with pytest.raises(RuntimeError):
            ask()


def test_a_failed_image_leaves_the_one_before(predictor: SamPredictor, scene: np.ndarray) -> None:
    before = predictor.features
    with pytest.raises(AnymaskError, match=re.escape("(1, 3, 20, 30)")):
        predictor.set_torch_image(torch.zeros(1, 3, 20, 30), (20, 30))
    with pytest.raises(AssertionError, match="'GRB'"):
        predictor.set_image(scene, image_format="GRB")
    assert predictor.features is before
    assert predictor.is_image_set


def test_points_need_labels(predictor: SamPredictor) -> None:
    with pytest.raises(AssertionError, match="point_labels"):
        predictor.predict(point_coords=np.array([[1, 2]]))
    with pytest.raises(AssertionError, match="point_labels"):
        predictor.predict_torch(torch.ones(1, 1, 2), None)


def test_state_can_be_written(predictor: SamPredictor, compatible_sam: Sam) -> None:
    """As tools do that keep embeddings on disk."""
    expected = predictor.predict(**PROMPTS["one point"])
    other = SamPredictor(compatible_sam)
    other.features = predictor.get_image_embedding().clone()
    other.original_size, other.input_size = (75, 100), tuple(predictor.input_size or ())
    other.is_image_set = True
    for actual, wanted in zip(other.predict(**PROMPTS["one point"]), expected, strict=True):
        assert np.array_equal(actual, wanted)


def test_subclasses_are_asked_through_their_own_methods(compatible_sam: Sam, scene: np.ndarray) -> None:
    class Counting(SamPredictor):
        calls = 0

        def predict_torch(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
            self.calls += 1
            return super().predict_torch(*args, **kwargs)

        def set_torch_image(self, transformed_image: Tensor, original_image_size: tuple[int, ...]) -> None:
            self.seen = tuple(transformed_image.shape)
            super().set_torch_image(transformed_image, original_image_size)

    predictor = Counting(compatible_sam)
    predictor.set_image(scene)
    predictor.predict(**PROMPTS["one point"])
    assert predictor.calls == 1
    assert predictor.seen == (1, 3, 192, 256)
