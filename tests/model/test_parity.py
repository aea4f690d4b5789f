"""Our networks against Meta's `segment-anything` and transformers' `SamModel`, every parameter random.

The peers initialise positions with zeros, so fresh weights would hide a wrong sign or order there.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from small_networks import SMALL, assert_close, randomise
from torch import Tensor, nn

from anymask.model.checkpoints import load_checkpoint
from anymask.model.image_encoder import ImageFeatures
from anymask.model.prompt_encoder import PointLabel
from anymask.model.registry import build_model
from anymask.model.segmenter import PromptBatch, Segmenter, choose_outputs

TOLERANCE = 1e-4  # of the largest value; float32 through two dozen layers
SIZE = int(SMALL["input_size"])

Builder = Callable[[], nn.Module]


@pytest.fixture
def meta_sam(small_sam: Segmenter, build_meta_sam: Builder) -> nn.Module:
    """Meta's network with our weights, under the very same keys."""
    model = build_meta_sam()
    model.load_state_dict(small_sam.state_dict(), strict=True)
    return model


@pytest.fixture
def huggingface_pair(small_sam: Segmenter, build_huggingface_sam: Builder) -> tuple[Segmenter, nn.Module]:
    """transformers' network, and ours with its weights."""
    peer = build_huggingface_sam()
    randomise(peer, seed=2)
    load_checkpoint(small_sam, peer.state_dict())
    return small_sam, peer


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def embedding() -> Tensor:
    cells = SIZE // 16
    shape = (1, int(SMALL["embed_dim"]), cells, cells)
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def prompts(kind: str) -> dict[str, Tensor | None]:
    """Three objects on one image; one where a mask is given, since transformers takes one mask per image."""
    generator = torch.Generator().manual_seed(5)
    count = 1 if "mask" in kind else 3
    points = torch.rand(count, 2, 2, generator=generator) * SIZE
    labels = torch.tensor([[1, 0], [1, 1], [0, 1]])[:count]
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * SIZE
    masks = 4 * torch.randn(count, 1, SIZE // 4, SIZE // 4, generator=generator)
    return {
        "points": points if "points" in kind else None,
        "labels": labels if "points" in kind else None,
        "boxes": corners.flatten(1) if "boxes" in kind else None,
        "masks": masks if "mask" in kind else None,
    }


def our_prompts(given: dict[str, Tensor | None]) -> PromptBatch:
    """The same prompts as labelled points; "not a point" stands where points come without a box."""
    points, labels, boxes, masks = given["points"], given["labels"], given["boxes"], given["masks"]
    count = next(len(value) for value in given.values() if value is not None)
    xy, kinds = [torch.zeros(count, 0, 2)], [torch.zeros(count, 0, dtype=torch.long)]
    if points is not None and labels is not None:
        xy.append(points)
        kinds.append(labels)
        if boxes is None:
            xy.append(torch.zeros(count, 1, 2))
            kinds.append(torch.full((count, 1), int(PointLabel.NOT_A_POINT)))
    if boxes is not None:
        xy.append(boxes.reshape(count, 2, 2))
        kinds.append(torch.tensor([[PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT]]).expand(count, 2))
    return PromptBatch(torch.cat(xy, dim=1), torch.cat(kinds, dim=1), masks)


KINDS = ["points", "boxes", "points boxes", "mask", "points mask", "boxes mask", "points boxes mask"]
each_kind = pytest.mark.parametrize("kind", KINDS)
each_multimask = pytest.mark.parametrize("multimask", [True, False])


@torch.inference_mode()
def test_image_encoder_equals_metas(small_sam: Segmenter, meta_sam: nn.Module, pixels: Tensor) -> None:
    assert_close(small_sam.encode(pixels).embedding, meta_sam.image_encoder(pixels), TOLERANCE)


@torch.inference_mode()
def test_image_encoder_equals_huggingfaces(huggingface_pair: tuple[Segmenter, nn.Module], pixels: Tensor) -> None:
    ours, peer = huggingface_pair
    assert_close(ours.encode(pixels).embedding, peer.get_image_embeddings(pixels), TOLERANCE)


@each_kind
@torch.inference_mode()
def test_prompt_encoder_equals_metas(small_sam: Segmenter, meta_sam: nn.Module, kind: str) -> None:
    given = prompts(kind)
    points = None if given["points"] is None else (given["points"], given["labels"])
    sparse, dense = meta_sam.prompt_encoder(points=points, boxes=given["boxes"], masks=given["masks"])
    batch = our_prompts(given)
    tokens = small_sam.prompt_encoder.encode_points((batch.points_xy + 0.5) / SIZE, batch.labels)
    if tokens.shape[1]:
        assert_close(tokens, sparse, TOLERANCE)
    assert tokens.shape == sparse.shape
    ours = small_sam.prompt_encoder.encode_masks(batch.mask_logits)
    assert ours.fine is None
    assert_close(ours.coarse(dense.shape[-2:]).expand_as(dense), dense, TOLERANCE)


@torch.inference_mode()
def test_positions_of_the_image_equal_metas(small_sam: Segmenter, meta_sam: nn.Module) -> None:
    cells = (SIZE // 16, SIZE // 16)
    ours = small_sam.prompt_encoder.pe_layer.grid(cells)
    assert_close(ours, meta_sam.prompt_encoder.get_dense_pe()[0], TOLERANCE)


@each_kind
@each_multimask
@torch.inference_mode()
def test_masks_and_ious_equal_metas(
    small_sam: Segmenter, meta_sam: nn.Module, embedding: Tensor, kind: str, multimask: bool
) -> None:
    given = prompts(kind)
    points = None if given["points"] is None else (given["points"], given["labels"])
    sparse, dense = meta_sam.prompt_encoder(points=points, boxes=given["boxes"], masks=given["masks"])
    expected, expected_ious = meta_sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=meta_sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    every = small_sam.decode(ImageFeatures(embedding), our_prompts(given))
    logits, ious = choose_outputs(*every, multimask=multimask)
    assert_close(logits, expected, TOLERANCE)
    assert_close(ious, expected_ious, TOLERANCE)


@each_kind
@each_multimask
@torch.inference_mode()
def test_masks_and_ious_equal_huggingfaces(
    huggingface_pair: tuple[Segmenter, nn.Module], embedding: Tensor, kind: str, multimask: bool
) -> None:
    ours, peer = huggingface_pair
    given = prompts(kind)
    per_image = {name: None if value is None else value[None] for name, value in given.items()}
    output = peer(
        image_embeddings=embedding,
        input_points=per_image["points"],
        input_labels=per_image["labels"],
        input_boxes=per_image["boxes"],
        input_masks=given["masks"],
        multimask_output=multimask,
    )
    every = ours.decode(ImageFeatures(embedding), our_prompts(given))
    logits, ious = choose_outputs(*every, multimask=multimask)
    assert_close(logits, output.pred_masks[0], TOLERANCE)
    assert_close(ious, output.iou_scores[0], TOLERANCE)


@torch.inference_mode()
def test_the_whole_path_equals_metas(small_sam: Segmenter, meta_sam: nn.Module) -> None:
    """Raw pixels of an image that is not square, through normalisation and padding, to mask logits."""
    image = torch.randint(0, 256, (3, 192, SIZE), generator=torch.Generator().manual_seed(6))
    given = prompts("points")
    record = {
        "image": image.float(),
        "original_size": (192, SIZE),
        "point_coords": given["points"],
        "point_labels": given["labels"],
    }
    expected = meta_sam([record], multimask_output=True)[0]
    padded, frame = small_sam.preprocess(image.permute(1, 2, 0).to(torch.uint8).numpy())
    assert frame.resized_hw == (192, SIZE)
    every = small_sam.decode(small_sam.encode(padded), our_prompts(given))
    logits, ious = choose_outputs(*every, multimask=True)
    assert_close(logits, expected["low_res_logits"], TOLERANCE)
    assert_close(ious, expected["iou_predictions"], TOLERANCE)


@pytest.mark.slow
@torch.inference_mode()
def test_full_vit_b_encoder_equals_metas(meta_package: ModuleType) -> None:
    """At 1024 pixels: 64 x 64 cells, windows padded from 64 to 70, global blocks over 4096 cells."""
    ours = build_model("vit_b").eval()
    randomise(ours, seed=7)
    peer = meta_package.sam_model_registry["vit_b"]().eval()
    peer.load_state_dict(ours.state_dict(), strict=True)
    pixels = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(8))
    assert_close(ours.encode(pixels).embedding, peer.image_encoder(pixels), TOLERANCE)
