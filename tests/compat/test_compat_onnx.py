"""The decoder made for export: beside Meta's, and as a graph where onnx and onnxruntime are installed."""

from __future__ import annotations

import importlib
import io
import warnings
from types import ModuleType

import numpy as np
import pytest
import torch
from compat_networks import Pair, assert_near
from small_networks import SMALL
from torch import Tensor

from anymask.compat.segment_anything import as_reference
from anymask.compat.segment_anything.modeling import MaskDecoder, Sam
from anymask.compat.segment_anything.utils.onnx import SamOnnxModel
from anymask.model.segmenter import Segmenter

SIZE, DIM = int(SMALL["input_size"]), int(SMALL["embed_dim"])
NAMES = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size")


def inputs(labels: list[int], has_mask: float = 0.0, size_hw: tuple[int, int] = (75, 100)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(labels))
    return {
        "image_embeddings": torch.randn(1, DIM, SIZE // 16, SIZE // 16, generator=generator),
        "point_coords": SIZE * torch.rand(1, len(labels), 2, generator=generator),
        "point_labels": torch.tensor([labels], dtype=torch.float),
        "mask_input": 4 * torch.randn(1, 1, SIZE // 4, SIZE // 4, generator=generator),
        "has_mask_input": torch.tensor([has_mask]),
        "orig_im_size": torch.tensor(size_hw, dtype=torch.float),
    }


def assert_same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape
        if theirs.any():
            assert float((ours - theirs).abs().max()) <= 1e-3 * float(theirs.abs().max())


@pytest.mark.parametrize("labels", [[1, -1], [1, 0, -1], [2, 3], [1, 2, 3], [1], [0, 1, 1, 1]], ids=str)
@pytest.mark.parametrize("has_mask", [0.0, 1.0])
@pytest.mark.parametrize("single", [True, False])
def test_answers_are_metas(
    pair: Pair, meta_package: ModuleType, labels: list[int], has_mask: float, single: bool
) -> None:
    metas = importlib.import_module("segment_anything.utils.onnx").SamOnnxModel
    given = inputs(labels, has_mask)
    for options in ({}, {"use_stability_score": True}, {"return_extra_metrics": True}):
        actual, expected = (
            build(sam, return_single_mask=single, **options)(**given)
            for build, sam in ((SamOnnxModel, pair.ours), (metas, pair.metas))
        )
        assert actual[0].shape == (1, 1 if single else 4, 75, 100)
        assert_same(actual, expected)


@pytest.mark.parametrize("size_hw", [(75, 100), (999, 701), (64, 64)])
def test_sizes_are_metas(pair: Pair, meta_package: ModuleType, size_hw: tuple[int, int]) -> None:
    metas = importlib.import_module("segment_anything.utils.onnx").SamOnnxModel
    given = inputs([1, -1], size_hw=size_hw)
    size = given["orig_im_size"]
    assert torch.equal(SamOnnxModel.resize_longest_image_size(size, SIZE), metas.resize_longest_image_size(size, SIZE))
    assert_same(SamOnnxModel(pair.ours, False)(**given), metas(pair.metas, False)(**given))


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("labels", [[1, -1], [2, 3], [1, 0, -1]], ids=str)
def test_padding_changes_no_answer(compatible_sam: Sam, labels: list[int], single: bool) -> None:
    """A graph of fixed size is fed with labels of -1 up to its size."""
    model = SamOnnxModel(compatible_sam, return_single_mask=single)
    given = inputs(labels)
    padded = given | {
        "point_coords": torch.cat([given["point_coords"], torch.full((1, 3, 2), 9.0)], dim=1),
        "point_labels": torch.cat([given["point_labels"], torch.full((1, 3), -1.0)], dim=1),
    }
    for actual, expected in zip(model(**padded), model(**given), strict=True):
        assert_near(actual, expected, 1e-5)


def test_a_decoder_with_the_references_signature_is_enough(compatible_sam: Sam) -> None:
    class Own(MaskDecoder):
        def predict_masks(  # type: ignore[override]
            self,
            image_embeddings: Tensor,
            image_pe: Tensor,
            sparse_prompt_embeddings: Tensor,
            dense_prompt_embeddings: Tensor,
        ) -> tuple[Tensor, Tensor]:
            return super().predict_masks(image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)

    ours = compatible_sam.mask_decoder
    own = Own(transformer_dim=DIM, transformer=ours.transformer, iou_head_hidden_dim=32).eval().requires_grad_(False)
    own.load_state_dict(ours.state_dict())
    sam = Sam(compatible_sam.image_encoder, compatible_sam.prompt_encoder, own).eval()
    given = inputs([1, 0, -1])
    assert_same(SamOnnxModel(sam, False)(**given), SamOnnxModel(compatible_sam, False)(**given))


@pytest.mark.parametrize("which", ["sam", "tiny"])
@pytest.mark.parametrize("single", [True, False])
def test_exported_graphs_answer_the_same(compatible_sam: Sam, random_tiny: Segmenter, which: str, single: bool) -> None:
    """One graph for any number of points, any size of the image, with and without a mask; exported as the reference's
    script does it, without a word of which exporter.
    """
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    sam = compatible_sam if which == "sam" else as_reference(random_tiny)
    model = SamOnnxModel(sam, return_single_mask=single, return_extra_metrics=single)
    width, cells = sam.prompt_encoder.embed_dim, sam.prompt_encoder.image_embedding_size

    def fitted(labels: list[int], has_mask: float, size_hw: tuple[int, int]) -> dict[str, Tensor]:
        embedding = torch.randn(1, width, *cells, generator=torch.Generator().manual_seed(5))
        return inputs(labels, has_mask, size_hw) | {"image_embeddings": embedding}

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(fitted([1, 0, 2, 3, -1], 1.0, (150, 225)).values()),
            file,
            input_names=list(NAMES),
            opset_version=17,
            dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
        )
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for labels, has_mask, size_hw in [
        ([1, -1], 0.0, (75, 100)),
        ([1, 2, 3], 1.0, (300, 201)),
        ([1, -1, -1, -1], 0.0, (99, 257)),
    ]:
        given = fitted(labels, has_mask, size_hw)
        answers = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        assert_same(tuple(torch.from_numpy(np.asarray(answer)) for answer in answers), model(**given))
