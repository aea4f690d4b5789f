"""What holds for every network: batches change no answer, any size goes in, half precision stays near."""

from __future__ import annotations

import pytest
import torch
from small_networks import assert_close, build_small_sam, randomise
from torch import nn

from anymask.model.image_encoder import ImageEncoder, ImageFeatures
from anymask.model.layers import Activation, apply_convolution
from anymask.model.prompt_encoder import PointLabel
from anymask.model.registry import build_model
from anymask.model.segmenter import PromptBatch, Segmenter

PADDING, NOT_A_POINT = int(PointLabel.PADDING), int(PointLabel.NOT_A_POINT)
# Objects with one point, two points, a box, a box and two points, and a mask alone.
RAGGED = [[1, NOT_A_POINT], [1, 0, NOT_A_POINT], [2, 3], [1, 0, 2, 3], []]


def random_model(name: str) -> Segmenter:
    model = build_small_sam() if name == "small" else build_model(name)
    randomise(model, seed=21)
    return model.eval().requires_grad_(False)


def encode_images(model: Segmenter, count: int, size_hw: tuple[int, int]) -> ImageFeatures:
    generator = torch.Generator().manual_seed(22)
    return model.encode(torch.randn(count, 3, *size_hw, generator=generator))


def ragged_batch(size_hw: tuple[int, int], image_index: torch.Tensor | None = None) -> PromptBatch:
    """All of RAGGED in one batch; the last object has a mask prompt and padding alone."""
    generator = torch.Generator().manual_seed(23)
    longest = max(map(len, RAGGED))
    points = torch.rand(len(RAGGED), longest, 2, generator=generator) * torch.tensor(size_hw[::-1])
    labels = torch.full((len(RAGGED), longest), PADDING)
    for row, kinds in enumerate(RAGGED):
        labels[row, : len(kinds)] = torch.tensor(kinds, dtype=torch.long)
    masks = 4 * torch.randn(len(RAGGED), 1, size_hw[0] // 4, size_hw[1] // 4, generator=generator)
    has_mask = torch.tensor([False, True, False, False, True])
    return PromptBatch(points, labels, masks, has_mask, image_index)


def one_of(batch: PromptBatch, row: int) -> PromptBatch:
    """One object of a batch as if it had been asked for alone: no padding, no mask that isn't its own."""
    assert batch.mask_logits is not None
    assert batch.has_mask is not None
    count = len(RAGGED[row])
    masks = batch.mask_logits[row : row + 1] if batch.has_mask[row] else None
    return PromptBatch(batch.points_xy[row : row + 1, :count], batch.labels[row : row + 1, :count], masks)


MODELS_AND_SIZES = [
    ("small", (256, 256)),
    ("tiny", (160, 224)),
    ("tiny", (224, 160)),
    ("tiny_narrow", (160, 224)),
    ("conv", (96, 128)),
]


@pytest.mark.parametrize(("name", "size_hw"), MODELS_AND_SIZES)
@torch.inference_mode()
def test_ragged_batch_gives_each_object_what_it_gets_alone(name: str, size_hw: tuple[int, int]) -> None:
    model = random_model(name)
    features = encode_images(model, 1, size_hw)
    batch = ragged_batch(size_hw)
    logits, ious = model.decode(features, batch)
    for row in range(len(RAGGED)):
        alone, iou_alone = model.decode(features, one_of(batch, row))
        assert_close(logits[row : row + 1], alone, 1e-5)
        assert_close(ious[row : row + 1], iou_alone, 1e-5)


@pytest.mark.parametrize(("name", "size_hw"), MODELS_AND_SIZES)
@torch.inference_mode()
def test_each_prompt_reads_its_own_image(name: str, size_hw: tuple[int, int]) -> None:
    """Prompts over three images by `image_index`, and one prompt for each image without it."""
    model = random_model(name)
    features = encode_images(model, 3, size_hw)
    index = torch.tensor([2, 0, 1, 2, 0])
    batch = ragged_batch(size_hw, index)
    logits, ious = model.decode(features, batch)
    for row, image in enumerate(index.tolist()):
        alone, iou_alone = model.decode(features[image : image + 1], one_of(batch, row))
        assert_close(logits[row : row + 1], alone, 1e-5)
        assert_close(ious[row : row + 1], iou_alone, 1e-5)
    firsts = PromptBatch(batch.points_xy[:3], batch.labels[:3])
    in_order = PromptBatch(batch.points_xy[:3], batch.labels[:3], image_index=torch.arange(3))
    assert_close(model.decode(features, firsts)[0], model.decode(features, in_order)[0], 1e-6)


@pytest.mark.parametrize("images", ["one for all", "one each", "by index"])
@pytest.mark.parametrize(("name", "size_hw"), MODELS_AND_SIZES)
@torch.inference_mode()
def test_promising_prompts_alone_get_the_masks_that_all_get(name: str, size_hw: tuple[int, int], images: str) -> None:
    model = random_model(name)
    index = torch.tensor([2, 0, 1, 2, 0]) if images == "by index" else None
    count = {"one for all": 1, "one each": len(RAGGED), "by index": 3}[images]
    features = encode_images(model, count, size_hw)
    logits, ious = model.decode(features, ragged_batch(size_hw, index))
    best = ious[:, 1:].max(dim=1).values
    iou_thresh = float(best.sort().values[2])  # three of five reach it
    some_logits, all_ious = model.decode(features, ragged_batch(size_hw, index), iou_thresh)
    assert torch.equal(all_ious, ious)
    assert some_logits.shape[0] == 3
    assert_close(some_logits, logits[best >= iou_thresh], 1e-5)
    none, _ = model.decode(features, ragged_batch(size_hw, index), float(best.max()) + 1)
    assert none.shape == (0, *logits.shape[1:])


@torch.inference_mode()
def test_what_stands_in_padding_is_never_read() -> None:
    model = random_model("tiny")
    features = encode_images(model, 1, (128, 128))
    batch = ragged_batch((128, 128))
    moved = batch.points_xy + 37.0 * (batch.labels == PADDING)[..., None]
    assert not torch.equal(moved, batch.points_xy)
    again = PromptBatch(moved, batch.labels, batch.mask_logits, batch.has_mask)
    assert torch.equal(model.decode(features, batch)[0], model.decode(features, again)[0])


@pytest.mark.parametrize("size_hw", [(64, 64), (96, 160), (160, 96), (32, 320)])
@pytest.mark.parametrize("name", ["tiny", "conv"])
@torch.inference_mode()
def test_encoders_take_any_size(name: str, size_hw: tuple[int, int]) -> None:
    model = random_model(name)
    encoder = model.image_encoder
    assert isinstance(encoder, ImageEncoder)
    features = encode_images(model, 2, size_hw)
    height, width = size_hw
    cells = (height // encoder.stride, width // encoder.stride)
    assert features.embedding.shape == (2, encoder.embed_dim, *cells)
    assert len(features.skips) == len(encoder.skip_channels)
    for level, (skip, channels) in enumerate(zip(features.skips, encoder.skip_channels, strict=True)):
        assert skip.shape == (2, channels, cells[0] * 2 ** (level + 1), cells[1] * 2 ** (level + 1))
    alone = model.encode(torch.randn(2, 3, *size_hw, generator=torch.Generator().manual_seed(22))[1:])
    assert_close(features.embedding[1:], alone.embedding, 1e-5)
    click = PromptBatch(torch.tensor([[[width / 2, height / 2]]]), torch.tensor([[1]]))
    logits, ious = model.decode(features[1:], click)
    assert logits.shape == (1, 4, height // 4, width // 4)
    assert ious.shape == (1, 4)


def test_convolutions_in_one_go_change_no_number() -> None:
    """With gradients layers take their plain form, one operation after the other."""
    model = random_model("tiny")
    plain = encode_images(model, 1, (96, 160))
    with torch.inference_mode():
        fused = encode_images(model, 1, (96, 160))
    assert_close(fused.embedding, plain.embedding, 1e-5)
    for skip, expected in zip(fused.skips, plain.skips, strict=True):
        assert_close(skip, expected, 1e-5)


@pytest.mark.parametrize("activation", ["none", "relu6", "gelu"])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (5, 1, 8)])
def test_a_convolution_and_what_follows(activation: Activation, kernel: int, stride: int, groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=groups).requires_grad_(False)
    x = 6 * torch.randn(2, 8, 13, 10)
    expected = layer(x)
    plain = {"none": expected, "relu6": expected.clamp(0, 6), "gelu": nn.functional.gelu(expected)}[activation]
    with torch.inference_mode():
        assert_close(apply_convolution(layer, x, activation), plain, 1e-6)
        added = torch.randn(expected.shape)
        before = added.clone()
        assert_close(apply_convolution(layer, x, added=added), expected + added, 1e-6)
        assert torch.equal(added, before)  # it may be needed further on
    assert_close(apply_convolution(layer, x, activation), plain, 1e-6)


@torch.inference_mode()
def test_vit_takes_other_sizes_than_its_own() -> None:
    model = random_model("small")
    for size_hw in [(128, 128), (96, 256), (320, 320)]:
        features = encode_images(model, 1, size_hw)
        assert features.embedding.shape[-2:] == (size_hw[0] // 16, size_hw[1] // 16)
        assert features.embedding.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["small", "tiny"])
@torch.inference_mode()
def test_half_precision_stays_near(name: str, dtype: torch.dtype) -> None:
    """With the Fourier matrix left in float32, as `load_model` does, in every kind of prompt."""
    model = random_model(name)
    size_hw = (256, 256)
    pixels = torch.randn(1, 3, *size_hw, generator=torch.Generator().manual_seed(24))
    batch = ragged_batch(size_hw)
    expected, expected_ious = model.decode(model.encode(pixels), batch)
    matrix = model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    model.to(dtype)
    model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix = matrix
    logits, ious = model.decode(model.encode(pixels.to(dtype)), batch)
    assert logits.dtype == dtype
    tolerance = 0.1 if dtype == torch.bfloat16 else 0.02  # assumed: some ten roundings of 2^-9 or 2^-12
    assert_close(logits.float(), expected, tolerance)
    assert_close(ious.float(), expected_ious, tolerance)


@torch.inference_mode()
def test_positions_keep_their_precision_under_autocast() -> None:
    encoding = random_model("small").prompt_encoder.pe_layer
    positions = torch.rand(50, 2, generator=torch.Generator().manual_seed(25))
    expected = encoding(positions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(encoding(positions), expected, 1e-6)
