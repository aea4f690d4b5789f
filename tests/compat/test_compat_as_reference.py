"""Any model of ours under the reference's classes, this package's and Meta's own."""

from __future__ import annotations

import copy
import importlib
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from compat_networks import assert_near, assert_same_masks
from small_networks import SMALL, build_small_sam, randomise
from torch import Tensor

from anymask.compat.segment_anything import SamAutomaticMaskGenerator, SamPredictor, as_reference
from anymask.compat.segment_anything.modeling import Sam
from anymask.compat.segment_anything.utils.onnx import SamOnnxModel
from anymask.errors import AnymaskError
from anymask.model.registry import build_model
from anymask.model.segmenter import PromptBatch, Segmenter, choose_outputs
from anymask.predictor import Predictor
from anymask.prompts import PointLabel

PACKAGES = ["ours", "metas"]


@pytest.fixture(scope="session")
def random_conv() -> Segmenter:
    """Another encoder: no skip maps, no click features, no prompt maps."""
    model = build_model("conv").eval().requires_grad_(False)
    randomise(model, seed=31)
    model.input_spec = replace(model.input_spec, longest_side=128)
    return model


@pytest.fixture(scope="session")
def random_vit() -> Segmenter:
    model = build_small_sam().eval().requires_grad_(False)
    randomise(model, seed=32)
    return model


@pytest.fixture(params=["tiny", "conv", "vit"])
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    return request.getfixturevalue(f"random_{request.param}")


@pytest.fixture(params=PACKAGES)
def predictor_class(request: pytest.FixtureRequest) -> Any:
    return SamPredictor if request.param == "ours" else request.getfixturevalue("meta_package").SamPredictor


def model_input(segmenter: Segmenter, predictor: Any, scene: np.ndarray) -> Tensor:
    """The image as the reference resizes it, by Pillow, and then normalised and padded as the model pads."""
    resized = torch.from_numpy(predictor.transform.apply_image(scene)).permute(2, 0, 1)[None]
    pixels = torch.zeros(1, 3, *segmenter.frame(scene.shape[:2]).padded_hw)
    pixels[:, :, : resized.shape[2], : resized.shape[3]] = segmenter.normalise(resized)
    return pixels


FOREGROUND, BACKGROUND, NOT_A_POINT, TOP_LEFT, BOTTOM_RIGHT = (
    int(label)
    for label in (
        PointLabel.FOREGROUND,
        PointLabel.BACKGROUND,
        PointLabel.NOT_A_POINT,
        PointLabel.BOX_TOP_LEFT,
        PointLabel.BOX_BOTTOM_RIGHT,
    )
)
# The arguments of `predict`, and the same as labelled points of the original image.
PROMPTS: dict[str, tuple[dict[str, Any], list[tuple[float, float, int]]]] = {
    "points": (
        {"point_coords": np.array([[40, 30], [70, 60]]), "point_labels": np.array([1, 0])},
        [(40, 30, FOREGROUND), (70, 60, BACKGROUND), (0, 0, NOT_A_POINT)],
    ),
    "box": ({"box": np.array([20, 10, 60, 50])}, [(20, 10, TOP_LEFT), (60, 50, BOTTOM_RIGHT)]),
    "point and box": (
        {
            "box": np.array([20, 10, 60, 50]),
            "point_coords": np.array([[33.5, 30]]),
            "point_labels": np.array([1]),
        },
        [(33.5, 30, FOREGROUND), (20, 10, TOP_LEFT), (60, 50, BOTTOM_RIGHT)],
    ),
    "mask": ({}, []),
}


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("multimask", [True, False])
def test_answers_are_the_models_own(
    segmenter: Segmenter, predictor_class: Any, scene: np.ndarray, kind: str, with_mask: bool, multimask: bool
) -> None:
    """To the bit that float32 keeps, whatever the model adds to the paper's; beyond its padding the edge repeats."""
    predictor = predictor_class(as_reference(segmenter))
    predictor.set_image(scene)
    arguments, labelled = PROMPTS[kind]
    low = segmenter.input_spec.longest_side // 4
    earlier = np.random.default_rng(1).normal(0, 4, (1, low, low)).astype(np.float32)
    given = {"mask_input": earlier} if with_mask else {}
    masks, ious, logits = predictor.predict(**arguments, **given, multimask_output=multimask)

    scale = segmenter.input_spec.longest_side / max(scene.shape)
    points = torch.tensor([[(x * scale, y * scale) for x, y, _ in labelled]]).reshape(1, -1, 2)
    labels = torch.tensor([[label for *_, label in labelled]], dtype=torch.long).reshape(1, -1)
    height, width = (side // 4 for side in segmenter.frame(scene.shape[:2]).padded_hw)
    own_mask = torch.from_numpy(earlier)[None, :, :height, :width] if with_mask else None
    batch = PromptBatch(points, labels, own_mask)
    with torch.no_grad():
        features = segmenter.encode(model_input(segmenter, predictor, scene))
        expected, expected_ious = choose_outputs(*segmenter.decode(features, batch), multimask)
    assert logits.shape == (3 if multimask else 1, low, low)
    assert masks.shape == (len(logits), *scene.shape[:2])
    assert_near(logits[:, :height, :width], expected[0])
    assert (logits[:, height:] == logits[:, height - 1 : height]).all()
    assert (logits[:, :, width:] == logits[:, :, width - 1 : width]).all()
    np.testing.assert_allclose(ious, expected_ious[0], atol=1e-4)


def test_batches_of_boxes(random_tiny: Segmenter, predictor_class: Any, scene: np.ndarray) -> None:
    predictor = predictor_class(as_reference(random_tiny))
    predictor.set_image(scene)
    boxes = np.array([[20, 10, 60, 50], [50, 40, 90, 70], [5, 5, 30, 70]])
    in_frame = predictor.transform.apply_boxes_torch(torch.from_numpy(boxes), scene.shape[:2])
    masks, ious, logits = predictor.predict_torch(None, None, boxes=in_frame, multimask_output=False)
    assert masks.shape == (3, 1, *scene.shape[:2])
    for row, box in enumerate(boxes):
        alone = predictor.predict(box=box, multimask_output=False)
        assert_same_masks(masks[row], alone[0])
        assert_near(ious[row], alone[1])
        assert_near(logits[row], alone[2])


def test_padding_changes_no_answer(random_tiny: Segmenter, predictor_class: Any, scene: np.ndarray) -> None:
    """Not under Meta's class either, which knows of no padding."""
    predictor = predictor_class(as_reference(random_tiny))
    predictor.set_image(scene)
    coords = torch.tensor([[[40.0, 90], [0, 0]], [[70, 60], [99, 20]]])
    labels = torch.tensor([[1, -1], [1, 0]])
    together = predictor.predict_torch(coords, labels, return_logits=True)
    alone = predictor.predict_torch(coords[:1, :1], labels[:1, :1], return_logits=True)
    for batch, single in zip(together, alone, strict=True):
        assert_near(batch[:1], single, 1e-5)


def test_generators_find_the_same(random_tiny: Segmenter, meta_package: ModuleType, scene: np.ndarray) -> None:
    arguments = {"points_per_side": 3, "pred_iou_thresh": -100.0, "stability_score_thresh": 0.3, "box_nms_thresh": 1.0}
    found = [
        generator(as_reference(random_tiny), **arguments).generate(scene)
        for generator in (SamAutomaticMaskGenerator, meta_package.SamAutomaticMaskGenerator)
    ]
    assert len(found[0]) == len(found[1]) >= 3
    for ours, metas in zip(*found, strict=True):
        assert (ours["segmentation"] != metas["segmentation"]).mean() < 1e-3
        assert ours["predicted_iou"] == pytest.approx(metas["predicted_iou"], abs=1e-4)


def test_nothing_is_remembered_between_calls(random_tiny: Segmenter, scene: np.ndarray) -> None:
    """Two images' embeddings at hand at once, prompts encoded before the one is used that they are asked of."""
    sam = as_reference(random_tiny)
    predictor = SamPredictor(sam)
    predictor.set_image(scene)
    first = predictor.get_image_embedding()
    expected = predictor.predict(point_coords=np.array([[40, 30]]), point_labels=np.array([1]))[2]
    prompts = sam.prompt_encoder((torch.tensor([[[102.4, 76.8]]]), torch.tensor([[1]])), None, None)
    predictor.set_image(scene[::-1])
    predictor.predict(box=np.array([20, 10, 60, 50]))
    logits, _ = sam.mask_decoder(first, sam.prompt_encoder.get_dense_pe(), *prompts, multimask_output=True)
    assert_near(logits[0].numpy(), expected)


def test_several_images_in_one_call(random_tiny: Segmenter, meta_package: ModuleType, scene: np.ndarray) -> None:
    """`forward` of the whole, and the decoder with one image per prompt, as training loops call it."""
    sam = as_reference(random_tiny)
    predictor = SamPredictor(sam)
    records, alone = [], []
    for image in (scene, np.ascontiguousarray(scene[::-1, :60])):
        predictor.set_image(image)
        resized = torch.from_numpy(predictor.transform.apply_image(image)).permute(2, 0, 1)
        coords = torch.tensor([[[60.0, 70.0]]])
        records.append(
            {
                "image": resized,
                "original_size": image.shape[:2],
                "point_coords": coords,
                "point_labels": torch.tensor([[1]]),
            }
        )
        alone.append(predictor.predict_torch(coords, torch.tensor([[1]]))[2])
    for output, expected in zip(sam(records, multimask_output=True), alone, strict=True):
        assert_near(output["low_res_logits"], expected)
    with torch.no_grad():
        embeddings = sam.image_encoder(torch.stack([sam.preprocess(record["image"]) for record in records]))
        points = (torch.tensor([[[60.0, 70.0]]] * 2), torch.tensor([[1]] * 2))
        sparse, dense = sam.prompt_encoder(points, None, None)
        logits, _ = sam.mask_decoder(embeddings, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    assert_near(logits, torch.cat(alone))


def test_attributes_that_clients_read(segmenter: Segmenter) -> None:
    sam = as_reference(segmenter)
    side = segmenter.input_spec.longest_side
    cells = (side // 16, side // 16)
    assert isinstance(sam, Sam)
    assert as_reference(sam) is sam
    assert sam.image_encoder.img_size == side
    assert sam.prompt_encoder.image_embedding_size == cells
    assert sam.prompt_encoder.mask_input_size == (side // 4, side // 4)
    assert sam.prompt_encoder.get_dense_pe().shape == (1, segmenter.image_encoder.embed_dim, *cells)
    assert (sam.mask_threshold, sam.image_format, sam.device) == (0.0, "RGB", segmenter.device)
    embedding = sam.image_encoder(torch.zeros(1, 3, side, side))
    assert embedding.shape == (1, sam.prompt_encoder.embed_dim, *cells)


def test_weights_are_shared_and_keep_their_keys(random_tiny: Segmenter, random_vit: Segmenter) -> None:
    model = copy.deepcopy(random_tiny)
    sam = as_reference(model)
    assert list(sam.state_dict()) == list(model.state_dict())
    parameters = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in sam.parameters()} == parameters
    for part, name in ((sam.image_encoder, "image_encoder"), (sam.prompt_encoder, "prompt_encoder")):
        assert {id(p) for p in part.parameters()} == {id(p) for p in getattr(model, name).parameters()}
    assert {id(p) for p in sam.mask_decoder.parameters()} == {id(p) for p in model.mask_decoder.parameters()}
    sam.load_state_dict({key: torch.zeros_like(tensor) for key, tensor in model.state_dict().items()})
    assert all(not tensor.any() for tensor in model.state_dict().values())
    assert list(as_reference(random_vit).state_dict()) == list(build_small_sam().state_dict())
    sam.double()
    assert model.dtype == torch.float64
    sam.train()
    assert model.training
    assert not as_reference(random_tiny).training


def test_a_copy_stands_alone(random_tiny: Segmenter, scene: np.ndarray) -> None:
    sam = as_reference(random_tiny)
    other = copy.deepcopy(sam)
    assert other.mask_decoder.segmenter is other.segmenter is not sam.segmenter
    for parameter in other.parameters():
        parameter.zero_()
    assert any(parameter.any() for parameter in random_tiny.parameters())


def test_half_precision(random_tiny: Segmenter, scene: np.ndarray) -> None:
    """Places of points keep full precision; answers stay close to those in float32."""
    model = copy.deepcopy(random_tiny).bfloat16()
    answers = []
    for each in (model, random_tiny):
        predictor = SamPredictor(as_reference(each))
        predictor.set_image(scene)
        answers.append(
            predictor.predict_torch(torch.tensor([[[102.4, 76.8]]]), torch.ones(1, 1), return_logits=True)[0]
        )
    actual, expected = answers
    assert actual.dtype == torch.bfloat16
    assert np.corrcoef(actual.float().flatten(), expected.flatten())[0, 1] > 0.95


def test_gradients_reach_the_model(random_tiny: Segmenter) -> None:
    model = copy.deepcopy(random_tiny).requires_grad_(True)
    sam = as_reference(model)
    embedding = sam.image_encoder(torch.randn(1, 3, 256, 256))
    sparse, dense = sam.prompt_encoder((torch.tensor([[[60.0, 70.0]]]), torch.tensor([[1]])), None, None)
    sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)[0].mean().backward()
    for name in ("image_encoder.stem.weight", "prompt_encoder.point_embeddings.1.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert gradient.any()


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("has_mask", [0.0, 1.0])
def test_onnx_models_answer_as_the_predictor(
    segmenter: Segmenter, scene: np.ndarray, package: str, has_mask: float, meta_package: ModuleType
) -> None:
    """Before any export: labelled points with "not a point" where there is no box."""
    sam = as_reference(segmenter)
    build = SamOnnxModel if package == "ours" else importlib.import_module("segment_anything.utils.onnx").SamOnnxModel
    onnx_model = build(sam, return_single_mask=False)
    predictor = SamPredictor(sam)
    predictor.set_image(scene)
    low = segmenter.input_spec.longest_side // 4
    mask_input = torch.randn(1, 1, low, low, generator=torch.Generator().manual_seed(1))
    coords, labels = torch.tensor([[[60.0, 70.0], [50, 20], [0, 0]]]), torch.tensor([[1.0, 0, -1]])
    size = torch.tensor(scene.shape[:2], dtype=torch.float)
    masks, ious, logits = onnx_model(
        predictor.get_image_embedding(), coords, labels, mask_input, torch.tensor([has_mask]), size
    )
    expected = predictor.predict_torch(
        coords[:, :2], labels[:, :2], mask_input=mask_input if has_mask else None, return_logits=True
    )
    # The graph interpolates twice on the way to the original size, the predictor once.
    assert ((masks[:, 1:] > 0) == (expected[0] > 0)).float().mean() > 0.97
    assert_near(ious[:, 1:], expected[1])
    assert_near(logits[:, 1:], expected[2])


@pytest.mark.parametrize("turn", [False, True])
def test_the_reference_and_our_predictor_give_the_same_masks(
    segmenter: Segmenter, predictor_class: Any, scene: np.ndarray, turn: bool
) -> None:
    """One way for the pixels in and one for the masks out, in landscape and portrait."""
    picture = np.ascontiguousarray(scene.transpose(1, 0, 2)) if turn else scene
    reference, own = predictor_class(as_reference(segmenter)), Predictor(segmenter)
    reference.set_image(picture)
    own.set_image(picture)
    for point in ([40, 30], [12, 50]):
        expected = own.predict(points=[point])
        masks, ious, _ = reference.predict(np.array([point]), np.array([1]))
        order = np.argsort(-ious, kind="stable")
        assert_near(ious[order], expected.scores)
        assert np.mean(masks[order] != expected.masks) < 1e-3


def test_what_is_no_model_of_ours() -> None:
    with pytest.raises(AnymaskError, match="model is a Linear"):
        as_reference(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_sizes_of_the_small_vit_are_the_references(random_vit: Segmenter) -> None:
    """Without anything beyond the paper, the embedding is the reference's own."""
    assert as_reference(random_vit).prompt_encoder.embed_dim == SMALL["embed_dim"]
