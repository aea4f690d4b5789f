"""From image features and prompt tokens to masks (paper 3 and A).

Legend: I images, B prompts, N tokens, C channels, h w embedding cells, M mask outputs (1 single + 3 ambiguous).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymask.model.image_encoder import ImageFeatures
from anymask.model.layers import MLP, LayerNorm2d
from anymask.model.prompt_encoder import DensePrompt
from anymask.model.transformer import TwoWayTransformer

NUM_MASK_OUTPUTS = 4  # paper A: one for unambiguous prompts, three for whole, part and subpart


class MaskDecoder(nn.Module):
    """Two-way transformer, 4x upscaling and one small MLP per mask output; an IoU head beside them.

    Where the image encoder gives skip maps they are added in the upscaling, at strides 8 and 4.
    """

    def __init__(
        self, *, embed_dim: int, transformer: TwoWayTransformer, head_dim: int = 256, has_skips: bool = False
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, embed_dim)
        self.mask_tokens = nn.Embedding(NUM_MASK_OUTPUTS, embed_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(embed_dim, embed_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(embed_dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(embed_dim // 4, embed_dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(embed_dim, embed_dim, embed_dim // 8, 3) for _ in range(NUM_MASK_OUTPUTS)
        )
        self.iou_prediction_head = MLP(embed_dim, head_dim, NUM_MASK_OUTPUTS, 3)
        self.has_skips = has_skips

    def forward(
        self,
        features: ImageFeatures,
        image_pe: Tensor,
        prompt_tokens: Tensor,
        dense_prompt: DensePrompt,
        token_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        iou_thresh: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All M masks of B prompts.

        features of I images; image_pe (C, h, w); prompt_tokens (B, N, C); token_mask (B, N), False at padding;
        image_index (B,) says which image each prompt belongs to (None: one image for all, or one each).
        Returns mask logits (B, M, 4h, 4w) and predicted IoU (B, M).

        With `iou_thresh` only those S prompts get masks, in their order, of which an ambiguous output is predicted to
        reach it: logits (S, M, 4h, 4w). Drawing is a quarter of the work ("measured" on tiny), and automatic
        generation drops most of it.
        """
        batch = prompt_tokens.shape[0]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(batch, -1, -1), prompt_tokens], dim=1)
        if token_mask is not None:
            token_mask = torch.cat([token_mask.new_ones(batch, own.shape[0]), token_mask], dim=1)

        image = _rows(features.embedding, image_index, batch) + dense_prompt.coarse
        size_hw = image.shape[-2:]
        tokens, positions = self.transformer(
            image.flatten(2).transpose(1, 2), image_pe.flatten(1).T[None], tokens, token_mask
        )
        image = positions.transpose(1, 2).reshape(batch, -1, *size_hw)

        ious, fine = self.iou_prediction_head(tokens[:, 0]), dense_prompt.fine
        if iou_thresh is not None:
            promising = (ious[:, 1:].float() >= iou_thresh).any(dim=1).nonzero()[:, 0]
            tokens, image = tokens[promising], image[promising]
            fine = None if fine is None else fine[promising]
            image_index = promising if image_index is None else image_index[promising]
        upscaled = self._upscale(image, features.skips, image_index, fine)
        heads = torch.stack(
            [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        logits = (heads @ upscaled.flatten(2)).unflatten(-1, upscaled.shape[-2:])
        return logits, ious

    def _upscale(
        self, image: Tensor, skips: tuple[Tensor, ...], image_index: Tensor | None, fine: Tensor | None
    ) -> Tensor:
        to_s8, norm, act1, to_s4, act2 = self.output_upscaling
        if not self.has_skips:
            upscaled = to_s4(act1(norm(to_s8(image))))
        else:
            skip8, skip4 = (_rows(skip, image_index, image.shape[0]) for skip in skips)
            upscaled = to_s4(act1(norm(to_s8(image) + skip8))) + skip4
        return act2(upscaled if fine is None else upscaled + fine)


def _rows(maps: Tensor, image_index: Tensor | None, batch: int) -> Tensor:
    """The map of each prompt's image: (I, ...) -> (B, ...), without a copy when one image serves all."""
    if image_index is not None and maps.shape[0] > 1:
        return maps[image_index]
    return maps.expand(batch, -1, -1, -1)
