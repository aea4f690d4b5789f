"""A SAM in the small shape of `small_networks`, built by the compatible classes; how answers are compared."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from small_networks import SMALL, SMALL_MLP
from torch import nn

from anymask.compat.segment_anything import modeling


class Pair(NamedTuple):
    """The same network twice: this package's `Sam` and Meta's."""

    ours: modeling.Sam
    metas: nn.Module


def build_compatible_sam() -> modeling.Sam:
    size, dim = SMALL["input_size"], SMALL["embed_dim"]
    encoder = modeling.ImageEncoderViT(
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
    prompts = modeling.PromptEncoder(dim, (size // 16, size // 16), (size, size), 16)
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=dim, num_heads=8, mlp_dim=SMALL_MLP)
    decoder = modeling.MaskDecoder(transformer_dim=dim, transformer=transformer, iou_head_hidden_dim=32)
    return modeling.Sam(encoder, prompts, decoder).eval().requires_grad_(False)


class BlobDecoder(nn.Module):
    """Answers a click with three round masks about it, small, middle and large, dented by what the image shows.

    Random weights give speckles all over the image, of which suppression leaves one. The random Fourier encoding of a
    click is most like that of the cells near it, which makes blobs; predicted IoU varies from click to click.
    """

    def forward(
        self,
        image_embeddings: torch.Tensor,
        image_pe: torch.Tensor,
        sparse_prompt_embeddings: torch.Tensor,
        dense_prompt_embeddings: torch.Tensor,
        multimask_output: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert multimask_output
        click = sparse_prompt_embeddings[:, 0]
        likeness = torch.einsum("bc,chw->bhw", click, image_pe[0]) / (click.shape[1] / 2)
        dents = (0.1 * image_embeddings[0].mean(dim=0)).tanh()
        sizes = likeness.new_tensor([0.8, 0.6, 0.4])
        logits = 6 * ((likeness + dents)[:, None] - sizes[:, None, None])
        logits = nn.functional.interpolate(logits, scale_factor=4, mode="bilinear")
        weights = torch.linspace(1, 7, click.shape[1])
        ious = 0.5 + 0.5 * torch.sin((click @ weights)[:, None] + 9 * sizes)
        return logits, ious


def assert_near(
    actual: np.ndarray | torch.Tensor, expected: np.ndarray | torch.Tensor, tolerance: float = 1e-4
) -> None:
    """Equal in shape and to `tolerance` of the largest value, of something that is not all the same."""
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    size = float(expected.abs().max())
    assert size > 1e-2
    assert float((actual.double() - expected.double()).abs().max()) <= tolerance * size


def assert_same_masks(actual: np.ndarray | torch.Tensor, expected: np.ndarray | torch.Tensor) -> None:
    """Boolean masks, neither empty nor full, that differ in one pixel of a thousand at most: logits near zero."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype == np.bool_
    assert actual.shape == expected.shape
    assert 0 < expected.mean() < 1
    assert (actual != expected).mean() <= 1e-3
