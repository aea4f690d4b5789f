"""A small network with every parameter random, and the two peers it is compared with."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from small_networks import SMALL, SMALL_MLP, build_small_sam, randomise
from torch import nn

from anymask.model.segmenter import Segmenter

STUBS = Path(__file__).resolve().parents[1] / "stubs"


@pytest.fixture
def small_sam() -> Segmenter:
    model = build_small_sam().eval().requires_grad_(False)
    randomise(model, seed=1)
    return model


@pytest.fixture(scope="session")
def meta_package() -> ModuleType:
    """Meta's `segment_anything`, over the stub where torchvision is not installed."""
    if importlib.util.find_spec("segment_anything") is None:
        pytest.skip("Meta's segment-anything is not installed (pip install --no-deps segment-anything==1.0)")
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("segment_anything")
    # The stub is gone again after the import, or transformers would take it for the whole of torchvision.
    sys.path.insert(0, str(STUBS))
    try:
        return importlib.import_module("segment_anything")
    finally:
        sys.path.remove(str(STUBS))
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]


@pytest.fixture(scope="session")
def build_meta_sam(meta_package: ModuleType) -> Callable[[], nn.Module]:
    """Meta's Sam in the small shape."""
    from functools import partial

    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    size, dim = SMALL["input_size"], SMALL["embed_dim"]

    def build() -> nn.Module:
        encoder = ImageEncoderViT(
            img_size=size,
            embed_dim=SMALL["width"],
            depth=SMALL["depth"],
            num_heads=SMALL["num_heads"],
            out_chans=dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=SMALL["global_blocks"],
        )
        prompts = PromptEncoder(dim, (size // 16, size // 16), (size, size), 16)
        transformer = TwoWayTransformer(depth=2, embedding_dim=dim, num_heads=8, mlp_dim=SMALL_MLP)
        decoder = MaskDecoder(transformer_dim=dim, transformer=transformer, iou_head_hidden_dim=32)
        return Sam(encoder, prompts, decoder).eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def build_huggingface_sam() -> Callable[[], nn.Module]:
    """transformers' SamModel in the small shape."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    size, dim = SMALL["input_size"], SMALL["embed_dim"]

    def build() -> nn.Module:
        vision = transformers.SamVisionConfig(
            hidden_size=SMALL["width"],
            num_hidden_layers=SMALL["depth"],
            num_attention_heads=SMALL["num_heads"],
            global_attn_indexes=list(SMALL["global_blocks"]),
            image_size=size,
            output_channels=dim,
            num_pos_feats=dim // 2,
        )
        prompts = transformers.SamPromptEncoderConfig(hidden_size=dim, image_size=size)
        # The reference's decoder norms have PyTorch's epsilon; transformers' default of 1e-6 departs from it.
        decoder = transformers.SamMaskDecoderConfig(
            hidden_size=dim, mlp_dim=SMALL_MLP, iou_head_hidden_dim=32, layer_norm_eps=1e-5
        )
        config = transformers.SamConfig(
            vision_config=vision.to_dict(),
            prompt_encoder_config=prompts.to_dict(),
            mask_decoder_config=decoder.to_dict(),
        )
        return transformers.SamModel(config).eval().requires_grad_(False)

    return build
