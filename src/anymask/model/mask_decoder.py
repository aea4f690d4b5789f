"""From image features and prompt tokens to masks (paper 3 and A).

Legend: I images, B prompts, N tokens, C channels, h w embedding cells, P = h * w, M mask outputs (1 single + 3
ambiguous), C8 and C4 channels at strides 8 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.image_encoder import ImageFeatures
from anymask.model.layers import MLP, LayerNorm2d, is_plain_inference
from anymask.model.nested import nest, nested_weight, unnest
from anymask.model.prompt_encoder import DensePrompt
from anymask.model.transformer import TwoWayTransformer

NUM_MASK_OUTPUTS = 4  # paper A: one for unambiguous prompts, three for whole, part and subpart
# Numbers at stride 4 that are drawn at once on a CPU: what fits its cache, and what its memory allocator keeps
# ("measured": ViT-B's 8 MB maps cost 19 ms of a click of 33 in page faults alone).
NUMBERS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class PreparedFeatures(ImageFeatures):
    """Image features with what is drawn from them alone, once per image: the skip maps nested, with their biases.

    `at_stride8` (I, P, 4 C8) and `at_stride4` (I, 4 P, 4 C4), or (1, 1, ...) where there are no skip maps.
    """

    at_stride8: Tensor = field(kw_only=True)
    at_stride4: Tensor = field(kw_only=True)


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

        image = _of_prompts(features.embedding, image_index) + dense_prompt.coarse
        size_hw = image.shape[-2:]
        tokens, positions = self.transformer(
            image.flatten(2).transpose(1, 2), image_pe.flatten(1).T[None], tokens, token_mask
        )

        ious = self.iou_prediction_head(tokens[:, 0])
        if iou_thresh is not None:
            promising = (ious[:, 1:].float() >= iou_thresh).any(dim=1).nonzero()[:, 0]
            tokens, positions, dense_prompt = tokens[promising], positions[promising], dense_prompt.of_rows(promising)
            if features.embedding.shape[0] > 1:
                image_index = promising if image_index is None else image_index[promising]
        heads = torch.stack(
            [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        return self._masks(positions, (size_hw[0], size_hw[1]), features, image_index, dense_prompt, heads), ious

    def prepare(self, features: ImageFeatures) -> PreparedFeatures:
        """Features that answer more quickly, for many prompts of the same images."""
        if isinstance(features, PreparedFeatures):
            return features
        to_s8, _, _, to_s4, _ = self._upscaling_parts()
        at_stride8, at_stride4 = to_s8.bias.repeat(4)[None, None], to_s4.bias.repeat(4)[None, None]
        if self.has_skips:
            at_stride8 = at_stride8 + nest(features.skips[0], 1)
            at_stride4 = at_stride4 + nest(features.skips[1], 2).unflatten(2, (4, -1)).flatten(1, 2)
        return PreparedFeatures(features.embedding, features.skips, at_stride8=at_stride8, at_stride4=at_stride4)

    def _upscaling_parts(self) -> tuple[Any, ...]:
        """Convolution to stride 8, norm, activation, convolution to stride 4, activation."""
        return tuple(self.output_upscaling)

    def _masks(
        self,
        positions: Tensor,
        size_hw: tuple[int, int],
        features: ImageFeatures,
        image_index: Tensor | None,
        dense_prompt: DensePrompt,
        heads: Tensor,
    ) -> Tensor:
        """Mask logits (B, M, 4h, 4w) of positions (B, P, C) and heads (B, M, C4)."""
        return unnest(self._draw(positions, self.prepare(features), image_index, dense_prompt, heads), size_hw, 2)

    def straightforward(
        self,
        positions: Tensor,
        size_hw: tuple[int, int],
        features: ImageFeatures,
        image_index: Tensor | None,
        dense_prompt: DensePrompt,
        heads: Tensor,
    ) -> Tensor:
        """`_masks` as the paper puts it, which gives the same numbers, to rounding."""
        to_s8, norm, act1, to_s4, act2 = self._upscaling_parts()
        image = positions.transpose(1, 2).unflatten(2, size_hw)
        if not self.has_skips:
            upscaled = to_s4(act1(norm(to_s8(image))))
        else:
            skip8, skip4 = (_of_prompts(skip, image_index) for skip in features.skips)
            upscaled = to_s4(act1(norm(to_s8(image) + skip8))) + skip4
        fine = dense_prompt.fine
        upscaled = act2(upscaled if fine is None else upscaled + fine)
        return (heads @ upscaled.flatten(2)).unflatten(-1, upscaled.shape[-2:])

    def _draw(
        self,
        positions: Tensor,
        features: PreparedFeatures,
        image_index: Tensor | None,
        dense_prompt: DensePrompt,
        heads: Tensor,
    ) -> Tensor:
        """Mask logits (B, M, 16 P), nested, of positions (B, P, C) and heads (B, M, C4).

        The same numbers as by `straightforward`, but faster, in training too ("measured": 0.9 of a step's time). A
        transposed convolution of 2x2 at stride 2 is a matrix product that gives four finer cells for one. Left in that
        order, everything up to the masks is matrix products and work on single cells, and the masks alone are put in
        order. On a CPU and without gradients a prompt's cells are drawn a few at a time.
        """
        at_stride8, at_stride4 = (_of_prompts(part, image_index) for part in (features.at_stride8, features.at_stride4))
        maps = dense_prompt.maps
        if maps is not None:
            maps = nest(maps, 2).unflatten(2, (16, -1)).flatten(1, 2)
        batch, count, _ = positions.shape
        if not is_plain_inference(positions):
            return self._draw_cells(positions, at_stride8, at_stride4, maps, dense_prompt, heads)
        step = -(-count // -(-16 * count * heads.shape[-1] // NUMBERS_AT_ONCE))
        drawn = positions.new_empty(batch, heads.shape[1], 16 * count)
        for row in range(batch):
            for start in range(0, count, step):
                cells = slice(start, start + step)
                drawn[row, :, 16 * start : 16 * (start + step)] = self._draw_cells(
                    positions[row : row + 1, cells],
                    _part(at_stride8, row, start, step),
                    _part(at_stride4, row, 4 * start, 4 * step),
                    None if maps is None else _part(maps, row, 16 * start, 16 * step),
                    dense_prompt,
                    heads[row : row + 1],
                )[0]
        return drawn

    def _draw_cells(
        self,
        positions: Tensor,
        at_stride8: Tensor,
        at_stride4: Tensor,
        maps: Tensor | None,
        dense_prompt: DensePrompt,
        heads: Tensor,
    ) -> Tensor:
        """Positions (B, S, C) to logits (B, M, 16 S), nested.

        Added on the way, for each prompt and cell or the same for all: `at_stride8` (B or 1, S or 1, 4 C8),
        `at_stride4` (B or 1, 4 S or 1, 4 C4) and the prompt's maps (B, 16 S, K).
        """
        to_s8, norm, act1, to_s4, act2 = self._upscaling_parts()
        cells = (positions @ nested_weight(to_s8.weight)).add_(at_stride8)
        cells = cells.unflatten(2, (4, -1)).flatten(1, 2)
        cells = act1(F.layer_norm(cells, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        cells = (cells @ nested_weight(to_s4.weight)).add_(at_stride4)
        cells = cells.unflatten(2, (4, -1)).flatten(1, 2)
        if maps is not None:
            cells = cells.add_(dense_prompt.project(maps))
        return heads @ act2(cells).transpose(1, 2)


def _part(values: Tensor, row: int, start: int, step: int) -> Tensor:
    """`step` positions of one prompt's (1, step, K), of values that may be the same for all prompts or positions."""
    values = values[row : row + 1] if values.shape[0] > 1 else values
    return values[:, start : start + step] if values.shape[1] > 1 else values


def _of_prompts(maps: Tensor, image_index: Tensor | None) -> Tensor:
    """The map of each prompt's image: (I, ...) -> (B, ...), or (1, ...) when one image serves all."""
    return maps[image_index] if image_index is not None and maps.shape[0] > 1 else maps
