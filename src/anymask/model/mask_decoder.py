"""From image features and prompt tokens to masks (paper 3 and A).

Legend: I images, B prompts, N tokens, C channels, h w embedding cells, P = h * w, M mask outputs (1 single + 3
ambiguous), C8 and C4 channels at strides 8 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anymask.model.finer import by_line, line_weight
from anymask.model.image_encoder import ImageFeatures
from anymask.model.layers import MLP, LayerNorm2d, StackedMLPs, is_plain_inference
from anymask.model.prompt_encoder import DensePrompt
from anymask.model.transformer import KnownImage, Shown, TwoWayTransformer

NUM_MASK_OUTPUTS = 4  # paper A: one for unambiguous prompts, three for whole, part and subpart
# Numbers at stride 4 that are drawn at once on a CPU: what fits its cache, and what its memory allocator keeps
# ("measured": ViT-B's 8 MB maps cost 19 ms of a click of 33 in page faults alone).
NUMBERS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class PreparedFeatures(ImageFeatures):
    """Image features with what is made of them alone, once per image.

    The skip maps by line, with all biases: `at_stride8` (I, 2, P, 2 C8) and `at_stride4` (I, 4, 2 P, 2 C4), or
    (1, ..., 1, K) where there are no skip maps. `weights` are the upscaling's. Of one image, where asked for: `known`,
    what the transformer's first layer makes of it with what every prompt adds, and the mask outputs' `heads`.
    """

    at_stride8: Tensor = field(kw_only=True)
    at_stride4: Tensor = field(kw_only=True)
    weights: LineWeights = field(kw_only=True)
    known: KnownImage | None = field(kw_only=True, default=None)
    heads: StackedMLPs | None = field(kw_only=True, default=None)


class LineWeights(NamedTuple):
    """The upscaling's weights as matrices, see `line_weight`, put in order once for all prompts."""

    to_stride8: tuple[Tensor, Tensor]
    to_stride4: tuple[Tensor, Tensor]


class MaskDecoder(nn.Module):
    """Two-way transformer, 4x upscaling and one small MLP per mask output; an IoU head beside them.

    Where the image encoder gives skip maps they are added in the upscaling, at strides 8 and 4. Not in the paper: with
    a `consensus` answers draw on all outputs, see `_agreed`; the upscaling may have an `activation` that is not GELU.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        transformer: TwoWayTransformer,
        head_dim: int = 256,
        has_skips: bool = False,
        consensus: float | None = None,
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, embed_dim)
        self.mask_tokens = nn.Embedding(NUM_MASK_OUTPUTS, embed_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(embed_dim, embed_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(embed_dim // 4),
            activation(),
            nn.ConvTranspose2d(embed_dim // 4, embed_dim // 8, kernel_size=2, stride=2),
            activation(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(embed_dim, embed_dim, embed_dim // 8, 3) for _ in range(NUM_MASK_OUTPUTS)
        )
        self.iou_prediction_head = MLP(embed_dim, head_dim, NUM_MASK_OUTPUTS, 3)
        self.has_skips = has_skips
        self.consensus = consensus

    def forward(
        self,
        features: ImageFeatures,
        image_pe: Tensor,
        prompt_tokens: Tensor,
        dense_prompt: DensePrompt,
        token_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        iou_thresh: float | None = None,
        outputs: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """All M masks of B prompts, or those of some `outputs`.

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

        size_hw = (features.embedding.shape[-2], features.embedding.shape[-1])
        flat_pe = image_pe.flatten(1).T[None]
        known, stacked = None, None
        if isinstance(features, PreparedFeatures):
            known, stacked = features.known, features.heads
        shown = None
        if known is None:
            image = _of_prompts(features.embedding, image_index) + dense_prompt.coarse(size_hw)
            positions = image.flatten(2).transpose(1, 2)
        else:
            positions = known.image
            if dense_prompt.shown is not None and dense_prompt.widen is not None:
                shown = Shown(dense_prompt.shown, dense_prompt.widen)
        tokens, positions = self.transformer(positions, flat_pe, tokens, token_mask, known, shown, own.shape[0])

        ious = self.iou_prediction_head(tokens[:, 0])
        shown_ious = ious
        if iou_thresh is not None:
            promising = (ious[:, 1:].float() >= iou_thresh).any(dim=1).nonzero()[:, 0]
            tokens, positions, dense_prompt = tokens[promising], positions[promising], dense_prompt.of_rows(promising)
            shown_ious = ious[promising]
            if features.embedding.shape[0] > 1:
                image_index = promising if image_index is None else image_index[promising]
        consensus = None if self.training else self.consensus
        every = range(len(self.output_hypernetworks_mlps))
        drawn = every[outputs] if consensus is None else every
        if stacked is not None:
            heads = stacked(tokens[:, 1:].transpose(0, 1)[: len(every)], drawn).transpose(0, 1)
        else:
            heads = torch.stack([self.output_hypernetworks_mlps[index](tokens[:, 1 + index]) for index in drawn], dim=1)
        if consensus is not None:
            heads = (_agreed(shown_ious, consensus) @ heads)[:, outputs]
        return self._masks(positions, size_hw, features, image_index, dense_prompt, heads), ious

    def prepare(
        self, features: ImageFeatures, dense_prompt: DensePrompt, image_pe: Tensor | None = None
    ) -> PreparedFeatures:
        """Features that answer more quickly, for many prompts of the same images.

        `dense_prompt` is any prompt's, of which only what all prompts share is read. With the image_pe (C, h, w) more
        is prepared, for features of one image.
        """
        if isinstance(features, PreparedFeatures):
            return features
        to_s8, _, _, to_s4, _ = self._upscaling_parts()
        bias_at_stride4 = to_s4.bias
        if dense_prompt.projection is not None:
            bias_at_stride4 = bias_at_stride4 + dense_prompt.projection.bias
        at_stride8 = to_s8.bias.repeat(2).expand(1, 2, 1, -1)
        at_stride4 = bias_at_stride4.repeat(2).expand(1, 4, 1, -1)
        if self.has_skips:
            skip8, skip4 = features.skips
            at_stride8, at_stride4 = at_stride8 + by_line(skip8, 2), at_stride4 + by_line(skip4, 4)
        known, heads = None, None
        can_know = isinstance(self.transformer, TwoWayTransformer) and features.embedding.shape[0] == 1
        if can_know and image_pe is not None:
            image = (features.embedding + dense_prompt.base).flatten(2).transpose(1, 2).contiguous()
            known = self.transformer.know(image, image_pe.flatten(1).T[None])
            heads = StackedMLPs.of(self.output_hypernetworks_mlps)
        return PreparedFeatures(
            features.embedding,
            features.skips,
            at_stride8=at_stride8,
            at_stride4=at_stride4,
            weights=self._line_weights(),
            known=known,
            heads=heads,
        )

    def _line_weights(self) -> LineWeights:
        to_s8, _, _, to_s4, _ = self._upscaling_parts()
        return LineWeights(
            (line_weight(to_s8.weight, 0), line_weight(to_s8.weight, 1)),
            (line_weight(to_s4.weight, 0), line_weight(to_s4.weight, 1)),
        )

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
        """Mask logits (B, M, 4h, 4w) of positions (B, P, C) and heads (B, M, C4).

        The same numbers as by `straightforward`, but faster, in training too ("measured": 0.9 of a step's time). A
        transposed convolution of 2x2 at stride 2 is a matrix product that gives four finer cells for one; here two, on
        one finer line. So everything up to the masks is matrix products and work on single cells, and masks come line
        by line. On a CPU and without gradients a prompt's rows are drawn a few at a time.
        """
        features = self.prepare(features, dense_prompt)
        at_stride8, at_stride4 = (_of_prompts(part, image_index) for part in (features.at_stride8, features.at_stride4))
        height, width = size_hw
        maps, of_maps = None, None
        if dense_prompt.maps is not None:
            assert dense_prompt.projection is not None
            maps = dense_prompt.maps.unflatten(2, (height, 4))
            of_maps = dense_prompt.projection.weight.flatten(1).T
        draw = partial(self._draw, width=width, weights=features.weights, of_maps=of_maps)
        if not len(positions) or not is_plain_inference(positions):
            return draw(positions, at_stride8, at_stride4, maps, heads)
        rows = max(1, NUMBERS_AT_ONCE // (4 * width * heads.shape[-1]))
        drawn = []
        for prompt in range(len(positions)):
            strips = [
                draw(
                    positions[prompt : prompt + 1, top * width : (top + rows) * width],
                    _part(at_stride8, prompt, top * width, rows * width),
                    _part(at_stride4, prompt, 2 * top * width, 2 * rows * width),
                    None if maps is None else maps[prompt : prompt + 1, :, top : top + rows],
                    heads[prompt : prompt + 1],
                )
                for top in range(0, height, rows)
            ]
            drawn.append(torch.cat(strips, dim=2) if len(strips) > 1 else strips[0])
        return torch.cat(drawn) if len(drawn) > 1 else drawn[0]

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
        at_stride8: Tensor,
        at_stride4: Tensor,
        maps: Tensor | None,
        heads: Tensor,
        *,
        width: int,
        weights: LineWeights,
        of_maps: Tensor | None,
    ) -> Tensor:
        """Positions (B, S, C) of whole grid rows to logits (B, M, 4 * rows, 4 * width).

        Added on the way, for each prompt and cell or the same for all: `at_stride8` (B or 1, 2, S or 1, 2 C8),
        `at_stride4` (B or 1, 4, 2 S or 1, 2 C4), and the prompt's maps (B, K, rows, 4, 4 * width) times `of_maps`
        (K, C4).
        """
        _, norm, act1, _, act2 = self._upscaling_parts()
        # Lines of four-times-finer cells, still a channel after the other: in rows of numbers, copied in rows.
        shown = None if maps is None else maps.permute(0, 3, 1, 2, 4).flatten(3).transpose(2, 3).unbind(1)
        lines = []
        for line in range(4):
            if line % 2 == 0:
                cells = (positions @ weights.to_stride8[line // 2]).add_(at_stride8[:, line // 2])
                cells = cells.unflatten(2, (2, -1)).flatten(1, 2)
                cells = act1(norm.of_cells(cells))
            finer = (cells @ weights.to_stride4[line % 2]).add_(at_stride4[:, line])
            finer = finer.unflatten(2, (2, -1)).flatten(1, 2)
            if shown is not None:
                assert of_maps is not None
                finer = finer.add_(shown[line] @ of_maps)
            lines.append((heads @ act2(finer).transpose(1, 2)).unflatten(2, (-1, 4 * width)))
        return torch.stack(lines, dim=3).flatten(2, 3)


def _agreed(ious: Tensor, consensus: float) -> Tensor:
    """How much of each output goes into each: (B, M, M) for predicted IoU (B, M).

    The single output becomes a mean of all, the most confident of the ambiguous ones a mean of the ambiguous ones,
    weighed by how confident the model is of each; the others stay as they are. Where it is torn between two masks a
    pixel is then taken that both would take. Logits are linear in the heads, so that mixing those costs nothing.
    """
    weights = torch.softmax(ious / consensus, dim=1)
    ambiguous = torch.softmax(ious[:, 1:] / consensus, dim=1)
    is_best = (ambiguous == ambiguous.amax(dim=1, keepdim=True))[..., None]
    own = torch.eye(NUM_MASK_OUTPUTS, dtype=ious.dtype, device=ious.device)
    mixed = torch.cat([torch.zeros_like(weights[:, :1]), ambiguous], dim=1)[:, None]
    return torch.cat([weights[:, None], torch.where(is_best, mixed, own[1:])], dim=1)


def _part(values: Tensor, prompt: int, start: int, count: int) -> Tensor:
    """`count` positions of one prompt's (1, L, count, K), of values that may be the same for all prompts or cells."""
    values = values[prompt : prompt + 1] if values.shape[0] > 1 else values
    return values[:, :, start : start + count] if values.shape[2] > 1 else values


def _of_prompts(maps: Tensor, image_index: Tensor | None) -> Tensor:
    """The map of each prompt's image: (I, ...) -> (B, ...), or (1, ...) when one image serves all."""
    return maps[image_index] if image_index is not None and maps.shape[0] > 1 else maps
