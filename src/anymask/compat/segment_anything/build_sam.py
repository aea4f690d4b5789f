"""The paper's three models by the reference's names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

from torch import nn

from anymask.compat.segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from anymask.model.checkpoints import load_checkpoint
from anymask.model.segmenter import Segmenter

INPUT_SIZE, PATCH_SIZE, PROMPT_DIM = 1024, 16, 256


def build_sam_vit_h(checkpoint: str | Path | None = None) -> Sam:
    return _build("vit_h", 1280, 32, 16, (7, 15, 23, 31), checkpoint)


def build_sam_vit_l(checkpoint: str | Path | None = None) -> Sam:
    return _build("vit_l", 1024, 24, 16, (5, 11, 17, 23), checkpoint)


def build_sam_vit_b(checkpoint: str | Path | None = None) -> Sam:
    return _build("vit_b", 768, 12, 12, (2, 5, 8, 11), checkpoint)


build_sam = build_sam_vit_h

sam_model_registry: dict[str, Callable[..., Sam]] = {
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
}


def _build(
    name: str, width: int, depth: int, num_heads: int, global_blocks: tuple[int, ...], checkpoint: str | Path | None
) -> Sam:
    """One model of the paper (A) in evaluation mode, on the CPU wherever its weights were saved.

    `checkpoint` is any file that `anymask.model.checkpoints` reads; None leaves random weights. Raises
    `CheckpointError` when the weights are of another model or cannot be read.
    """
    cells = INPUT_SIZE // PATCH_SIZE
    sam = Sam(
        ImageEncoderViT(
            img_size=INPUT_SIZE,
            patch_size=PATCH_SIZE,
            embed_dim=width,
            depth=depth,
            num_heads=num_heads,
            out_chans=PROMPT_DIM,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=global_blocks,
        ),
        PromptEncoder(PROMPT_DIM, (cells, cells), (INPUT_SIZE, INPUT_SIZE), mask_in_chans=16),
        MaskDecoder(
            transformer_dim=PROMPT_DIM,
            transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_DIM, num_heads=8, mlp_dim=2048),
        ),
    )
    if checkpoint is not None:
        # The keys are a Segmenter's; of the model itself only its name is asked, for the messages.
        sam.name = name  # type: ignore[assignment]
        load_checkpoint(cast(Segmenter, sam), checkpoint)
    return sam.eval()
