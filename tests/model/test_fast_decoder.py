"""What answers and learning take instead of the straightforward forms: equal to them, every parameter random."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_networks import assert_close, randomise
from test_networks import MODELS_AND_SIZES, encode_images, ragged_batch, random_model
from torch import nn

from anymask.model import segmenter, upscaling
from anymask.model.finer import by_line, four_beside, line_weight
from anymask.model.prepared_features import PreparedFeatures
from anymask.model.prompt_encoder import RandomFourierEncoding
from anymask.model.segmenter import PromptBatch, Segmenter
from anymask.model.transformer import Attention, _softmax
from anymask.model.upscaling import Upscaling

TOLERANCE = 1e-5  # of the largest value


@pytest.fixture(params=MODELS_AND_SIZES, ids=lambda case: f"{case[0]}-{case[1][0]}x{case[1][1]}")
def model_and_size(request: pytest.FixtureRequest) -> tuple[Segmenter, tuple[int, int]]:
    return random_model(request.param[0]), request.param[1]


def decode_straightforward(model: Segmenter, features: segmenter.ImageFeatures, prompts: PromptBatch):
    with pytest.MonkeyPatch.context() as patch, torch.enable_grad():
        patch.setattr(
            Attention, "forward", lambda own, *given, is_spent=False, **known: own.straightforward(*given, **known)
        )
        patch.setattr(Upscaling, "masks", Upscaling.straightforward)
        return model.decode(features, prompts)


@pytest.mark.parametrize("images", ["one for all", "one each", "by index"])
@pytest.mark.parametrize("has_masks", [True, False])
@torch.no_grad()
def test_answers_equal_the_straightforward_form(
    model_and_size: tuple[Segmenter, tuple[int, int]], images: str, has_masks: bool
) -> None:
    model, size_hw = model_and_size
    index = torch.tensor([2, 0, 1, 2, 0]) if images == "by index" else None
    features = encode_images(model, {"one for all": 1, "one each": 5, "by index": 3}[images], size_hw)
    batch = ragged_batch(size_hw, index)
    if not has_masks:
        batch = PromptBatch(batch.points_xy, batch.labels, image_index=index)
    expected, expected_ious = decode_straightforward(model, features, batch)
    with torch.enable_grad():
        answers = [model.decode(features, batch)]  # as learning decodes
    answers += [model.decode(given, batch) for given in (features, model.prepare(features))]
    for logits, ious in answers:
        assert_close(logits, expected, TOLERANCE)
        assert_close(ious, expected_ious, TOLERANCE)
    for outputs in (slice(0, 1), slice(1, None)):
        logits, ious = model.decode(features, batch, outputs=outputs)
        assert_close(logits, expected[:, outputs], TOLERANCE)
        assert_close(ious, expected_ious, TOLERANCE)


@pytest.mark.parametrize("has_masks", [True, False])
@torch.no_grad()
def test_a_prepared_image_stays_as_it_is(model_and_size: tuple[Segmenter, tuple[int, int]], has_masks: bool) -> None:
    """Prompts one by one, over and over, each as it is answered among others."""
    model, size_hw = model_and_size
    features, batch = encode_images(model, 1, size_hw), ragged_batch(size_hw)
    if not has_masks:
        batch = PromptBatch(batch.points_xy, batch.labels)
    expected, expected_ious = decode_straightforward(model, features, batch)
    features = model.prepare(features)
    for index in (*range(len(batch)), 0, 0):
        logits, ious = model.decode(features, batch[index : index + 1])
        assert_close(logits, expected[index : index + 1], TOLERANCE)
        assert_close(ious, expected_ious[index : index + 1], TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("num_tokens", [2, 40])
def test_images_of_which_all_or_the_first_layer_is_known(num_tokens: int) -> None:
    """Both are among the networks here; where tokens are many, nothing is."""
    kinds = set()
    for name, size_hw in MODELS_AND_SIZES:
        model = random_model(name)
        features = encode_images(model, 1, size_hw)
        prepared = model.prepare(features)
        assert isinstance(prepared, PreparedFeatures)
        kinds.add(prepared.is_whole)
        points_xy = torch.rand(3, num_tokens, 2) * min(size_hw)
        prompts = PromptBatch(points_xy, torch.ones(3, num_tokens, dtype=torch.int64))
        assert_close(model.decode(prepared, prompts)[0], decode_straightforward(model, features, prompts)[0], TOLERANCE)
    assert kinds == {True, False}


@pytest.mark.parametrize("iou_thresh", [None, 0.0])
@pytest.mark.parametrize("images", ["one for all", "one each", "by index"])
@torch.no_grad()
def test_small_batches_and_strips_change_no_answer(
    model_and_size: tuple[Segmenter, tuple[int, int]],
    images: str,
    iou_thresh: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, size_hw = model_and_size
    index = torch.tensor([2, 0, 1, 2, 0]) if images == "by index" else None
    features = encode_images(model, {"one for all": 1, "one each": 5, "by index": 3}[images], size_hw)
    batch = ragged_batch(size_hw, index)
    expected, expected_ious = model.decode(features, batch, iou_thresh)
    assert len(expected) > 0
    monkeypatch.setattr(segmenter, "NUMBERS_AT_ONCE", 2 * features.embedding[0].numel())
    monkeypatch.setattr(upscaling, "NUMBERS_AT_ONCE", 1000)
    logits, ious = model.decode(features, batch, iou_thresh)
    assert_close(logits, expected, TOLERANCE)
    assert_close(ious, expected_ious, TOLERANCE)


@pytest.mark.parametrize("has_few_queries", [True, False])
@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("is_masked", [True, False])
@torch.no_grad()
def test_attention_between_few_and_many(has_few_queries: bool, is_shared: bool, is_masked: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    attention = Attention(48, num_heads=4, downsample_rate=2).eval()
    randomise(attention, seed=2)
    few = torch.randn(3, 5, 48, generator=generator)
    many, values = (torch.randn(1 if is_shared else 3, 60, 48, generator=generator) for _ in range(2))
    given = (few, many, values) if has_few_queries else (many, few, torch.randn(3, 5, 48, generator=generator))
    mask = None
    if is_masked and not (has_few_queries and is_shared):
        mask = torch.rand(3, given[1].shape[1], generator=generator) < 0.6
        mask[:, 0] = True
    expected = attention.straightforward(*given, mask)
    with pytest.MonkeyPatch.context() as patch:  # the folded form it is, and no fall back
        patch.setattr(Attention, "straightforward", None)
        assert_close(attention(*given, mask), expected, TOLERANCE)


@torch.no_grad()
def test_dropout_is_not_lost() -> None:
    attention = Attention(48, num_heads=4, downsample_rate=2, dropout=0.5).train()
    few, many = torch.randn(1, 5, 48), torch.randn(1, 60, 48)
    assert not torch.equal(attention(few, many, many), attention(few, many, many))


def test_gradients_reach_every_parameter_of_the_decoder() -> None:
    model = random_model("tiny").requires_grad_(True)
    with torch.no_grad():
        features = encode_images(model, 1, (64, 96))
    logits, ious = model.decode(features, ragged_batch((64, 96)))
    (logits.sum() + ious.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.mask_decoder.parameters())


@torch.no_grad()
@pytest.mark.parametrize("outputs", [slice(None), slice(1, None), slice(0, 1)], ids=str)
def test_answers_draw_on_all_outputs_when_they_are_not_learned_from(outputs: slice) -> None:
    model = random_model("tiny").eval()
    features, prompts = encode_images(model, 1, (64, 96)), ragged_batch((64, 96))
    agreed, ious = model.decode(features, prompts, outputs=outputs)
    model.mask_decoder.consensus, model.mask_decoder.second_look = None, None
    own, first_ious = model.decode(features, prompts)
    expected = own.clone()
    for row, confidence in enumerate(first_ious):
        shares = [torch.softmax(part / 0.03, 0)[:, None, None] for part in (confidence, confidence[1:])]
        expected[row, 0] = (shares[0] * own[row]).sum(0)
        expected[row, 1 + confidence[1:].argmax()] = (shares[1] * own[row, 1:]).sum(0)
    assert_close(agreed, expected[:, outputs], TOLERANCE)
    assert (ious - first_ious).abs().max() > 0.01  # the second look, which `random_model` made random
    model.mask_decoder.consensus = 0.03
    assert_close(model.train().decode(features, prompts)[0], own, TOLERANCE)


def test_four_beside_each_other() -> None:
    maps = torch.randn(2, 3, 8, 10)
    assert torch.equal(four_beside(maps), F.pixel_unshuffle(maps, 2).flatten(2))


def test_order_by_line() -> None:
    maps = torch.randn(2, 3, 8, 10)
    lines = by_line(maps, 4)
    assert lines.shape == (2, 4, 2 * 5, 2 * 3)
    assert torch.equal(lines[1, 2, 5 + 3], maps[1, :, 4 + 2, 6:8].T.flatten())


@torch.no_grad()
def test_convolutions_are_products() -> None:
    maps = torch.randn(2, 6, 4, 10)
    convolution = nn.Conv2d(6, 3, kernel_size=2, stride=2)
    assert convolution.bias is not None
    product = convolution.weight.flatten(1) @ four_beside(maps) + convolution.bias[:, None]
    assert_close(product, convolution(maps).flatten(2), 1e-6)
    transposed = nn.ConvTranspose2d(6, 3, kernel_size=2, stride=2)
    for line, expected in enumerate(by_line(transposed(maps), 2).unbind(1)):
        product = maps.flatten(2).transpose(1, 2) @ line_weight(transposed.weight, line) + transposed.bias.repeat(2)
        assert_close(product, expected, 1e-6)


@torch.no_grad()
def test_sharp_attention_meets_no_denormal_numbers() -> None:
    """They cost an Intel processor a hundred times the time, and add nothing."""
    scores = 60 * torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(3))
    plain, quick = scores.softmax(dim=-1), _softmax(scores, dim=-1)
    tiny = torch.finfo(torch.float32).tiny
    assert bool(((plain > 0) & (plain < tiny)).any())
    assert bool((quick >= tiny).all())
    assert_close(quick, plain, 1e-6)


@torch.no_grad()
def test_a_kept_grid_is_made_anew_for_another_size_or_matrix() -> None:
    encoding = RandomFourierEncoding(4)
    first = encoding.grid((2, 3)).clone()
    assert torch.equal(encoding.grid((2, 3)), first)
    assert encoding.grid((3, 2)).shape == (8, 3, 2)
    assert not torch.equal(encoding.grid((2, 3), (0.5, 1.0)), first)
    encoding.positional_encoding_gaussian_matrix.mul_(2)
    assert not torch.equal(encoding.grid((2, 3)), first)


def test_prepared_features_go_where_features_go() -> None:
    model = random_model("tiny")
    with torch.inference_mode():
        prepared = model.prepare(encode_images(model, 2, (64, 96)))
    assert isinstance(prepared, PreparedFeatures)
    assert model.mask_decoder.prepare(prepared, model.prompt_encoder.base_prompt()) is prepared
    assert prepared[1:].embedding.shape[0] == 1
