"""A small network with every parameter random, and Hugging Face's beside it; Meta's is in the folder above."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from small_networks import SMALL, SMALL_MLP, build_small_sam, randomise
from torch import nn

from anymask.model.segmenter import Segmenter


@pytest.fixture
def small_sam() -> Segmenter:
    model = build_small_sam().eval().requires_grad_(False)
    randomise(model, seed=1)
    return model


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
