"""The compatible networks: constructors, keys, call signatures and numbers of Meta's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from compat_networks import Pair, assert_near, build_compatible_sam
from small_networks import SMALL, assert_close, randomise
from torch import Tensor, nn

from anymask.compat.segment_anything import build_sam, modeling, sam_model_registry
from anymask.compat.segment_anything.modeling import image_encoder, mask_decoder, prompt_encoder
from anymask.errors import CheckpointError

SIZE, DIM = int(SMALL["input_size"]), int(SMALL["embed_dim"])
Builder = Callable[[], nn.Module]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_state_dicts_load_both_ways(build_meta_sam: Builder) -> None:
    ours, metas = build_compatible_sam(), build_meta_sam()
    randomise(metas, seed=1)
    ours.load_state_dict(metas.state_dict(), strict=True)
    again = build_meta_sam()
    again.load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(metas.state_dict())
    for key, tensor in metas.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    assert {name for name, _ in ours.named_parameters()} == {name for name, _ in metas.named_parameters()}


@torch.no_grad()
def test_image_encoder_gives_metas_tensor(pair: Pair) -> None:
    pixels = random(2, 3, SIZE, SIZE)
    embedding = pair.ours.image_encoder(pixels)
    assert isinstance(embedding, Tensor)
    assert_close(embedding, pair.metas.image_encoder(pixels), 1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rel_pos": True, "qkv_bias": False, "in_chans": 1},
        {"use_abs_pos": False, "mlp_ratio": 2.0, "act_layer": nn.ReLU, "window_size": 3},
        {
            "use_rel_pos": True,
            "window_size": 3,
            "global_attn_indexes": (1,),
            "norm_layer": partial(nn.LayerNorm, eps=1e-3),
        },
    ],
)
@torch.no_grad()
def test_every_option_of_the_image_encoder(meta_package: ModuleType, options: dict[str, object]) -> None:
    shape = {"img_size": 64, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2, "out_chans": 8}
    ours = modeling.ImageEncoderViT(**shape, **options).eval()
    metas = meta_package.modeling.ImageEncoderViT(**shape, **options).eval()
    randomise(ours, seed=3)
    metas.load_state_dict(ours.state_dict(), strict=True)
    pixels = random(2, int(options.get("in_chans", 3)), 64, 64)
    assert_close(ours(pixels), metas(pixels), 1e-4)


@pytest.mark.parametrize("size_hw", [(16, 16), (14, 28), (5, 17)])
def test_windows(meta_package: ModuleType, size_hw: tuple[int, int]) -> None:
    theirs = meta_package.modeling.image_encoder
    x = random(2, *size_hw, 3)
    windows, padded = image_encoder.window_partition(x, 14)
    expected, expected_padded = theirs.window_partition(x, 14)
    assert padded == expected_padded
    assert torch.equal(windows, expected)
    assert torch.equal(image_encoder.window_unpartition(windows, 14, padded, size_hw), x)


PROMPTS = {
    "points": {"points": True},
    "boxes": {"boxes": True},
    "masks": {"masks": True},
    "points and boxes": {"points": True, "boxes": True},
    "everything": {"points": True, "boxes": True, "masks": True},
    "nothing": {},
}


def some_prompts(kind: str) -> dict[str, object]:
    wanted = PROMPTS[kind]
    points = (SIZE * random(3, 2, 2, seed=1).sigmoid(), torch.tensor([[1, 0], [1, 1], [0, -1]]))
    corners = SIZE * random(3, 2, 2, seed=2).sigmoid()
    return {
        "points": points if "points" in wanted else None,
        "boxes": corners.sort(dim=1).values.flatten(1) if "boxes" in wanted else None,
        "masks": 4 * random(3, 1, SIZE // 4, SIZE // 4, seed=3) if "masks" in wanted else None,
    }


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("multimask", [True, False])
@torch.no_grad()
def test_prompts_and_masks_are_metas(pair: Pair, kind: str, multimask: bool) -> None:
    """Called directly, where label -1 is "not a point" in both."""
    prompts = some_prompts(kind)
    embedding = random(1, DIM, SIZE // 16, SIZE // 16)
    answers = []
    for sam in pair:
        sparse, dense = sam.prompt_encoder(**prompts)
        logits, ious = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        answers.append((sparse, dense, logits, ious))
    (sparse, *others), (expected_sparse, *expected_others) = answers
    assert sparse.shape == expected_sparse.shape
    if sparse.numel():
        assert_close(sparse, expected_sparse, 1e-4)
    for actual, expected in zip(others, expected_others, strict=True):
        assert_close(actual, expected, 1e-4)


@torch.no_grad()
def test_predict_masks_gives_all_four(pair: Pair) -> None:
    embedding = random(1, DIM, SIZE // 16, SIZE // 16)
    answers = []
    for sam in pair:
        sparse, dense = sam.prompt_encoder(**some_prompts("points"))
        answers.append(sam.mask_decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense))
    assert answers[0][0].shape == (3, 4, SIZE // 4, SIZE // 4)
    for actual, expected in zip(*answers, strict=True):
        assert_close(actual, expected, 1e-4)


@torch.no_grad()
def test_boxes_as_medical_clients_pass_them(pair: Pair) -> None:
    boxes = some_prompts("boxes")["boxes"]
    assert isinstance(boxes, Tensor)
    sparse, _ = pair.ours.prompt_encoder(points=None, boxes=boxes[:, None], masks=None)
    expected, _ = pair.metas.prompt_encoder(points=None, boxes=boxes[:, None], masks=None)
    assert_close(sparse, expected, 1e-4)


def test_attributes_that_clients_read(pair: Pair) -> None:
    for sam in pair:
        assert sam.image_encoder.img_size == SIZE
        assert sam.prompt_encoder.embed_dim == DIM
        assert tuple(sam.prompt_encoder.image_embedding_size) == (SIZE // 16, SIZE // 16)
        assert tuple(sam.prompt_encoder.input_image_size) == (SIZE, SIZE)
        assert tuple(sam.prompt_encoder.mask_input_size) == (SIZE // 4, SIZE // 4)
        assert sam.prompt_encoder.num_point_embeddings == 4
        assert sam.mask_decoder.num_mask_tokens == 4
        assert sam.mask_decoder.transformer_dim == DIM
        assert (sam.mask_threshold, sam.image_format, sam.device.type) == (0.0, "RGB", "cpu")
        assert sam.pixel_mean.shape == sam.pixel_std.shape == (3, 1, 1)


@torch.no_grad()
def test_position_encodings(pair: Pair) -> None:
    ours, metas = pair.ours.prompt_encoder, pair.metas.prompt_encoder
    assert_close(ours.get_dense_pe(), metas.get_dense_pe(), 1e-4)
    assert_close(ours.pe_layer((3, 5)), metas.pe_layer((3, 5)), 1e-4)
    unit = random(2, 4, 2).sigmoid()
    assert_close(ours.pe_layer._pe_encoding(unit), metas.pe_layer._pe_encoding(unit), 1e-4)
    pixels = unit * 100
    assert_close(
        ours.pe_layer.forward_with_coords(pixels, (90, 120)),
        metas.pe_layer.forward_with_coords(pixels, (90, 120)),
        1e-4,
    )


@torch.no_grad()
def test_prompt_encoder_of_a_frame_that_is_not_square(meta_package: ModuleType) -> None:
    arguments = (16, (4, 6), (64, 96), 8, nn.ReLU)
    ours, metas = prompt_encoder.PromptEncoder(*arguments), meta_package.modeling.PromptEncoder(*arguments)
    randomise(ours, seed=4)
    metas.load_state_dict(ours.state_dict(), strict=True)
    points = (60 * random(1, 3, 2).sigmoid(), torch.tensor([[1, 0, 1]]))
    masks = random(1, 1, 16, 24)
    for actual, expected in zip(
        (*ours(points, None, masks), ours.get_dense_pe()),
        (*metas(points, None, masks), metas.get_dense_pe()),
        strict=True,
    ):
        assert_close(actual, expected, 1e-4)


@pytest.mark.parametrize(("outputs", "depth", "activation"), [(3, 3, nn.GELU), (5, 2, nn.ReLU), (3, 2, nn.SiLU)])
@torch.no_grad()
def test_every_option_of_the_mask_decoder(
    meta_package: ModuleType, outputs: int, depth: int, activation: type[nn.Module]
) -> None:
    def build(package: ModuleType) -> nn.Module:
        transformer = package.TwoWayTransformer(1, 16, 2, 32, activation=activation, attention_downsample_rate=1)
        return package.MaskDecoder(
            transformer_dim=16,
            transformer=transformer,
            num_multimask_outputs=outputs,
            activation=activation,
            iou_head_depth=depth,
            iou_head_hidden_dim=24,
        ).eval()

    ours, metas = build(modeling), build(meta_package.modeling)
    randomise(ours, seed=5)
    metas.load_state_dict(ours.state_dict(), strict=True)
    arguments = (
        random(1, 16, 4, 4),
        random(1, 16, 4, 4, seed=1),
        random(2, 3, 16, seed=2),
        random(2, 16, 4, 4, seed=3),
    )
    for multimask in (True, False):
        for actual, expected in zip(ours(*arguments, multimask), metas(*arguments, multimask), strict=True):
            assert_close(actual, expected, 1e-4)


@torch.no_grad()
def test_transformer_takes_maps_as_subclasses_of_the_decoder_pass_them(pair: Pair) -> None:
    image, image_pe, tokens = random(2, DIM, 4, 5), random(2, DIM, 4, 5, seed=1), random(2, 3, DIM, seed=2)
    ours = pair.ours.mask_decoder.transformer(image, image_pe, tokens)
    metas = pair.metas.mask_decoder.transformer(image, image_pe, tokens)
    for actual, expected in zip(ours, metas, strict=True):
        assert_close(actual, expected, 1e-4)


@pytest.mark.parametrize("sigmoid", [True, False])
@torch.no_grad()
def test_mlp(meta_package: ModuleType, sigmoid: bool) -> None:
    ours = mask_decoder.MLP(4, 8, 3, 3, sigmoid_output=sigmoid)
    metas = meta_package.modeling.mask_decoder.MLP(4, 8, 3, 3, sigmoid_output=sigmoid)
    metas.load_state_dict(ours.state_dict(), strict=True)
    assert_close(ours(random(5, 4)), metas(random(5, 4)), 1e-5)


def records() -> list[dict[str, object]]:
    """Two images of different sizes in the model's frame, with different kinds of prompts."""
    prompts = some_prompts("everything")
    assert isinstance(prompts["points"], tuple)
    coords, _ = prompts["points"]
    pixels = torch.randint(0, 256, (3, SIZE, SIZE), generator=torch.Generator().manual_seed(9)).float()
    return [
        {
            "image": pixels[:, : SIZE - 64],
            "original_size": (75, 100),
            "point_coords": coords,
            "point_labels": torch.tensor([[1, 0], [1, 1], [0, 1]]),
            "mask_inputs": prompts["masks"],
        },
        {"image": pixels[:, :, : SIZE - 100], "original_size": (333, 203), "boxes": prompts["boxes"]},
    ]


@pytest.mark.parametrize("multimask", [True, False])
def test_sam_answers_for_several_images(pair: Pair, multimask: bool) -> None:
    actual, expected = (sam(records(), multimask_output=multimask) for sam in pair)
    assert [set(output) for output in actual] == [{"masks", "iou_predictions", "low_res_logits"}] * 2
    for ours, metas in zip(actual, expected, strict=True):
        assert ours["masks"].shape == metas["masks"].shape
        assert (ours["masks"] != metas["masks"]).float().mean() < 1e-3
        assert 0 < metas["masks"].float().mean() < 1
        assert_near(ours["iou_predictions"], metas["iou_predictions"])
        assert_near(ours["low_res_logits"], metas["low_res_logits"])


def test_sam_answers_a_mask_alone(compatible_sam: modeling.Sam) -> None:
    """Each mask gets its own answer, and it depends on the mask."""
    record = records()[0]
    alone = {key: record[key] for key in ("image", "original_size", "mask_inputs")}
    answer = compatible_sam([alone], multimask_output=True)[0]
    assert answer["masks"].shape == (3, 3, 75, 100)
    assert (answer["low_res_logits"][0] - answer["low_res_logits"][1]).abs().max() > 0.1


def test_padding_changes_no_answer(compatible_sam: modeling.Sam) -> None:
    """Three objects of different length in one batch, and each alone."""
    record = records()[0]
    coords = SIZE * random(3, 3, 2, seed=11).sigmoid()
    labels = torch.tensor([[1, -1, -1], [1, 0, 1], [-1, 1, 0]])
    batch = compatible_sam([record | {"point_coords": coords, "point_labels": labels}], multimask_output=True)[0]
    for row, kept in enumerate(([0], [0, 1, 2], [1, 2])):
        alone = record | {
            "point_coords": coords[row : row + 1, kept],
            "point_labels": labels[row : row + 1, kept],
            "mask_inputs": record["mask_inputs"][row : row + 1],  # type: ignore[index]
        }
        answer = compatible_sam([alone], multimask_output=True)[0]
        assert_near(batch["low_res_logits"][row : row + 1], answer["low_res_logits"], 1e-5)
        assert_near(batch["iou_predictions"][row : row + 1], answer["iou_predictions"], 1e-5)


@pytest.mark.parametrize(
    ("input_size", "original_size"), [((192, 256), (75, 100)), ((256, 101), (999, 394)), ((3, 256), (1, 100))]
)
def test_postprocessing_is_metas(pair: Pair, input_size: tuple[int, int], original_size: tuple[int, int]) -> None:
    for low in (SIZE // 4, 50):
        logits = random(2, 3, low, low)
        actual, expected = (sam.postprocess_masks(logits, input_size, original_size) for sam in pair)
        assert_near(actual, expected, 1e-5)


def test_postprocessing_keeps_gradient_and_dtype(compatible_sam: modeling.Sam) -> None:
    logits = random(1, 1, 64, 64).requires_grad_()
    compatible_sam.postprocess_masks(logits, (192, 256), (75, 100)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    for dtype in (torch.float64, torch.bfloat16):
        assert compatible_sam.postprocess_masks(logits.detach().to(dtype), (192, 256), (75, 100)).dtype == dtype


def test_preprocessing_is_metas(pair: Pair) -> None:
    image = torch.randint(0, 256, (3, 192, SIZE), generator=torch.Generator().manual_seed(1))
    for given in (image.float(), image[None].float()):
        actual, expected = (sam.preprocess(given) for sam in pair)
        assert torch.equal(actual, expected)


def test_registry_names() -> None:
    assert set(sam_model_registry) == {"default", "vit_h", "vit_l", "vit_b"}
    assert sam_model_registry["default"] is sam_model_registry["vit_h"] is build_sam


@pytest.mark.slow
def test_registry_builds_and_loads(meta_package: ModuleType, tmp_path: Path) -> None:
    """ViT-B from Meta's file, and a plain word about the wrong one."""
    metas = meta_package.sam_model_registry["vit_b"]()
    torch.save(metas.state_dict(), tmp_path / "sam.pth")
    ours = sam_model_registry["vit_b"](checkpoint=tmp_path / "sam.pth")
    assert not ours.training
    assert list(ours.state_dict()) == list(metas.state_dict())
    for key, tensor in metas.state_dict().items():
        assert torch.equal(ours.state_dict()[key], tensor), key
    broken = {key: tensor for key, tensor in metas.state_dict().items() if "mask_tokens" not in key}
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"broken\.pth.*vit_b"):
        sam_model_registry["vit_b"](checkpoint=str(tmp_path / "broken.pth"))


def test_gradients_reach_every_part(pair: Pair) -> None:
    """Fine-tuning loops call the three parts by themselves."""
    sam = build_compatible_sam().requires_grad_(True)
    sam.load_state_dict(pair.ours.state_dict())
    embedding = sam.image_encoder(sam.preprocess(records()[0]["image"])[None])
    sparse, dense = sam.prompt_encoder(**some_prompts("everything"))
    logits, ious = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    (sam.postprocess_masks(logits, (192, SIZE), (75, 100)).mean() + ious.mean()).backward()
    without = {name for name, parameter in sam.named_parameters() if parameter.grad is None}
    heads = {
        f"mask_decoder.output_hypernetworks_mlps.0.layers.{layer}.{part}"
        for layer in range(3)
        for part in ("weight", "bias")
    }
    assert without <= heads | {"prompt_encoder.no_mask_embed.weight"}


def test_low_rank_adapters_as_clients_inject_them(compatible_sam: modeling.Sam) -> None:
    """`blocks[i].attn.qkv` is replaced by a module that sees (B, h, w, C) and adds to the query's channels."""

    class LowRank(nn.Module):
        def __init__(self, qkv: nn.Linear) -> None:
            super().__init__()
            self.qkv = qkv
            self.dim = qkv.in_features
            self.down, self.up = nn.Linear(self.dim, 2, bias=False), nn.Linear(2, self.dim, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            output = self.qkv(x)
            output[:, :, :, : self.dim] += self.up(self.down(x))
            return output

    sam = build_compatible_sam()
    sam.load_state_dict(compatible_sam.state_dict())
    pixels = random(1, 3, SIZE, SIZE)
    before = sam.image_encoder(pixels)
    for block in sam.image_encoder.blocks:
        block.attn.qkv = LowRank(block.attn.qkv)
    after = sam.image_encoder(pixels)
    assert (after - before).abs().max() > 1e-3
    after.mean().backward()
    assert sam.image_encoder.blocks[0].attn.qkv.up.weight.grad is not None


def test_pixel_constants_are_any_numbers() -> None:
    built = build_compatible_sam()
    sam = modeling.Sam(
        built.image_encoder,
        built.prompt_encoder,
        built.mask_decoder,
        pixel_mean=np.array([1, 2, 3]),
        pixel_std=[1, 1, 1],
    )
    assert sam.pixel_mean.dtype == torch.float32
