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
from anymask.model.known_image import FactoredMap, KnownEnd, KnownImage
from anymask.model.layers import MLP, LayerNorm2d, StackedMLPs, add_product, is_plain_inference
from anymask.model.prompt_encoder import DensePrompt
from anymask.model.second_look import FARTHEST, SecondLook
from anymask.model.transformer import TwoWayTransformer

NUM_MASK_OUTPUTS = 4  # paper A: one for unambiguous prompts, three for whole, part and subpart
# Numbers at stride 4 that are drawn at once on a CPU: what fits its cache, and what its memory allocator keeps
# ("measured": ViT-B's 8 MB maps cost 19 ms of a click of 33 in page faults alone).
NUMBERS_AT_ONCE = 1 << 19


@dataclass(frozen=True)
class PreparedFeatures(ImageFeatures):
    """Image features with what is made of them alone, once per image.

    The skip maps by line, with all biases: `at_stride8` (I, 2, P, 2 C8) and `at_stride4` (I, 4, 2 P, 2 C4), or
    (1, ..., 1, K) where there are no skip maps. `weights` are the upscaling's. Of one image, where asked for: `known`,
    what the transformer makes of it with what every prompt adds, `known_at_stride8`, what the upscaling makes of that,
    and the mask outputs' `heads`.
    """

    at_stride8: Tensor = field(kw_only=True)
    at_stride4: Tensor = field(kw_only=True)
    weights: LineWeights = field(kw_only=True)
    known: KnownImage | None = field(kw_only=True, default=None)
    known_at_stride8: KnownStride8 | None = field(kw_only=True, default=None)
    heads: StackedMLPs | None = field(kw_only=True, default=None)

    @property
    def is_whole(self) -> bool:
        """Whether prompts need no map of their own, see `known_image.py`."""
        return self.known_at_stride8 is not None


class LineWeights(NamedTuple):
    """The upscaling's weights as matrices of both lines, see `line_weight`, put in order once for all prompts.

    to_stride8 (2, C, 2 C8), to_stride4 (2, C8, 2 C4).
    """

    to_stride8: Tensor
    to_stride4: Tensor


class KnownStride8(NamedTuple):
    """What the upscaling to stride 8 makes of a known image, by line: see `FactoredMap` and `PreparedFeatures`.

    of_base (2, P, 2 C8), of_rows (2, C, 2 C8), and the rest, at_stride8 (1, 2, P or 1, 2 C8).
    """

    of_base: Tensor
    of_rows: Tensor
    at_stride8: Tensor

    @staticmethod
    def of(end: KnownEnd, to_stride8: Tensor, at_stride8: Tensor) -> KnownStride8:
        constant = (end.constant @ to_stride8)[None, :, None]
        return KnownStride8(end.base @ to_stride8, end.row_weight[:, None] * to_stride8, at_stride8 + constant)


class MaskDecoder(nn.Module):
    """Two-way transformer, 4x upscaling and one small MLP per mask output; an IoU head beside them.

    Where the image encoder gives skip maps they are added in the upscaling, at strides 8 and 4. Not in the paper: with
    a `consensus` answers draw on all outputs, see `_agreed`; with a second look predicted IoU depends on the masks too,
    see `SecondLook`; the upscaling may have an `activation` that is not GELU.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        transformer: TwoWayTransformer,
        head_dim: int = 256,
        has_skips: bool = False,
        consensus: float | None = None,
        has_second_look: bool = False,
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
        self.second_look = SecondLook(embed_dim, NUM_MASK_OUTPUTS) if has_second_look else None
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
        generation drops most of it. Prompts out of a second look's reach keep their first guess, below it.
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
        positions: Tensor | FactoredMap
        if known is not None and self.transformer.suits(tokens, known):
            tokens, positions = self.transformer.answer(
                known, flat_pe, dense_prompt.shown, tokens, token_mask, own.shape[0]
            )
        else:
            image = _of_prompts(features.embedding, image_index) + dense_prompt.coarse(size_hw)
            image = image.flatten(2).transpose(1, 2)
            tokens, positions = self.transformer(image, flat_pe, tokens, token_mask, own.shape[0])

        ious = self.iou_prediction_head(tokens[:, 0])
        shown_ious, promising = ious, None
        if iou_thresh is not None:
            promising = _reach(ious, iou_thresh - (0.0 if self.second_look is None else FARTHEST)).nonzero()[:, 0]
            tokens, positions, dense_prompt = tokens[promising], positions[promising], dense_prompt.of_rows(promising)
            shown_ious = ious[promising]
            if features.embedding.shape[0] > 1:
                image_index = promising if image_index is None else image_index[promising]
        consensus = None if self.training else self.consensus
        every = range(len(self.output_hypernetworks_mlps))
        drawn = every[outputs] if consensus is None and self.second_look is None else every
        if stacked is not None:
            heads = stacked(tokens[:, 1:].transpose(0, 1)[: len(every)], drawn).transpose(0, 1)
        else:
            heads = torch.stack([self.output_hypernetworks_mlps[index](tokens[:, 1 + index]) for index in drawn], dim=1)
        if consensus is not None:
            heads = _agreed(shown_ious, consensus) @ heads
        draw = partial(self._masks, positions, size_hw, features, image_index, dense_prompt)
        if self.second_look is None:
            return draw(heads if consensus is None else heads[:, outputs]), ious
        masks = draw(heads)
        seen = self.second_look(tokens[:, 0], shown_ious, masks)
        if promising is None or iou_thresh is None:
            return masks[:, outputs], seen
        return masks[_reach(seen, iou_thresh), outputs], ious.index_copy(0, promising, seen)

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
        weights = self._line_weights()
        known, known_at_stride8, heads = None, None, None
        can_know = isinstance(self.transformer, TwoWayTransformer) and features.embedding.shape[0] == 1
        if can_know and image_pe is not None:
            image = (features.embedding + dense_prompt.base)[0].flatten(1).T
            known = self.transformer.know(image.contiguous(), image_pe.flatten(1).T, dense_prompt.widen)
            if known.end is not None:
                known_at_stride8 = KnownStride8.of(known.end, weights.to_stride8, at_stride8)
            heads = StackedMLPs.of(self.output_hypernetworks_mlps)
        return PreparedFeatures(
            features.embedding,
            features.skips,
            at_stride8=at_stride8,
            at_stride4=at_stride4,
            weights=weights,
            known=known,
            known_at_stride8=known_at_stride8,
            heads=heads,
        )

    def _line_weights(self) -> LineWeights:
        to_s8, _, _, to_s4, _ = self._upscaling_parts()
        return LineWeights(
            *(torch.stack([line_weight(part.weight, line) for line in (0, 1)]) for part in (to_s8, to_s4))
        )

    def _upscaling_parts(self) -> tuple[Any, ...]:
        """Convolution to stride 8, norm, activation, convolution to stride 4, activation."""
        return tuple(self.output_upscaling)

    def _masks(
        self,
        positions: Tensor | FactoredMap,
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
        at_stride4 = _of_prompts(features.at_stride4, image_index)
        if isinstance(positions, FactoredMap):
            assert features.known_at_stride8 is not None
            cells = _known_cells(positions, features.known_at_stride8)
        else:
            cells = _cells(positions, features.weights.to_stride8, _of_prompts(features.at_stride8, image_index))
        height, width = size_hw
        maps, of_maps = None, None
        if dense_prompt.maps is not None:
            assert dense_prompt.projection is not None
            maps = dense_prompt.maps.unflatten(2, (height, 4))
            of_maps = dense_prompt.projection.weight.flatten(1).T
        if torch.jit.is_tracing():
            return self._draw_at_once(
                cells, at_stride4, maps, heads, width=width, weights=features.weights, of_maps=of_maps
            )
        draw = partial(self._draw, width=width, weights=features.weights, of_maps=of_maps)
        if not len(heads) or not is_plain_inference(heads):
            return draw(partial(cells, Part()), at_stride4, maps, heads)
        rows = max(1, NUMBERS_AT_ONCE // (4 * width * heads.shape[-1]))
        drawn = []
        for prompt in (slice(index, index + 1) for index in range(len(heads))):
            strips = []
            for top in range(0, height, rows):
                part = Part(prompt, slice(top * width, min(top + rows, height) * width))
                shown = None if maps is None else maps[prompt, :, top : top + rows]
                strips.append(draw(partial(cells, part), part(at_stride4, 2, beside=2), shown, heads[prompt]))
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
        cells_of: Callable[[Line], Tensor],
        at_stride4: Tensor,
        maps: Tensor | None,
        heads: Tensor,
        *,
        width: int,
        weights: LineWeights,
        of_maps: Tensor | None,
    ) -> Tensor:
        """The cells at stride 8 of whole grid rows to logits (B, M, 4 * rows, 4 * width).

        `cells_of` one of the two lines of them: (B, S, 2 C8). Added on the way, for each prompt and cell or the same
        for all: `at_stride4` (B or 1, 4, 2 S or 1, 2 C4), and the prompt's maps (B, K, rows, 4, 4 * width) times
        `of_maps` (K, C4).
        """
        _, norm, act1, _, act2 = self._upscaling_parts()
        # Lines of four-times-finer cells, still a channel after the other: in rows of numbers, copied in rows.
        shown = None if maps is None else maps.permute(0, 3, 1, 2, 4).flatten(3).transpose(2, 3).unbind(1)
        lines = []
        for line in range(4):
            if line % 2 == 0:
                cells = cells_of(line // 2).unflatten(2, (2, -1)).flatten(1, 2)
                cells = act1(norm.of_cells(cells))
            finer = (cells @ weights.to_stride4[line % 2]).add_(at_stride4[:, line])
            finer = finer.unflatten(2, (2, -1)).flatten(1, 2)
            if shown is not None:
                assert of_maps is not None
                finer = finer.add_(shown[line] @ of_maps)
            lines.append((heads @ act2(finer).transpose(1, 2)).unflatten(2, (-1, 4 * width)))
        return torch.stack(lines, dim=3).flatten(2, 3)

    def _draw_at_once(
        self,
        cells_of: Callable[[Part, Line], Tensor],
        at_stride4: Tensor,
        maps: Tensor | None,
        heads: Tensor,
        *,
        width: int,
        weights: LineWeights,
        of_maps: Tensor | None,
    ) -> Tensor:
        """`_draw` of everything with all lines side by side, for graphs: each product and each sum is one node.

        A runtime's threads share a large node better than many small ones ("measured": `tiny` in onnxruntime, two
        threads, 1.05 instead of 1.65 ms, one thread 1.74 instead of 1.87 ms).
        """
        _, norm, act1, _, act2 = self._upscaling_parts()
        cells = cells_of(Part(), slice(None)).unflatten(3, (2, -1)).flatten(2, 3)
        cells = act1(norm.of_cells(cells))
        finer = (cells[:, :, None] @ weights.to_stride4).flatten(1, 2)
        added = at_stride4
        if maps is not None:
            assert of_maps is not None
            shown = maps.permute(0, 3, 1, 2, 4).flatten(3).transpose(2, 3) @ of_maps
            added = added + shown.unflatten(2, (-1, 2)).flatten(3)
        finer = act2(finer + added).unflatten(3, (2, -1)).flatten(2, 3)
        lines = heads[:, None] @ finer.transpose(2, 3)
        return lines.unflatten(3, (-1, 4 * width)).permute(0, 2, 3, 1, 4).flatten(2, 3)


def _reach(ious: Tensor, iou_thresh: float) -> Tensor:
    """Of which prompts an ambiguous output is predicted to reach it: (B, M) -> (B,) bool."""
    return (ious[:, 1:].float() >= iou_thresh).any(dim=1)


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


@dataclass(frozen=True)
class Part:
    """Some of the prompts and some of the positions, or all of both."""

    prompts: slice | None = None
    places: slice | None = None

    def __call__(self, values: Tensor, axis: int, beside: int = 1) -> Tensor:
        """The part of values, of prompts along axis 0 and `beside` for each position along `axis`, or one for all.

        A graph shows no cut where there is none.
        """
        if self.prompts is not None and values.shape[0] > 1:
            values = values[self.prompts]
        if self.places is None or values.shape[axis] == 1:
            return values
        start, stop = self.places.start * beside, self.places.stop * beside
        return values[(slice(None),) * axis + (slice(start, stop),)]


# One of two finer lines, or both: as an axis of their own, after the prompts'.
Line = int | slice


def _cells(positions: Tensor, to_stride8: Tensor, at_stride8: Tensor) -> Callable[[Part, Line], Tensor]:
    """What gives the cells at stride 8 of some positions: (B, S, 2 C8) on one line, (B, 2, S, 2 C8) on both."""

    def cells_of(part: Part, line: Line) -> Tensor:
        cells = _beside(part(positions, 1), line) @ to_stride8[line]
        return cells.add_(part(at_stride8, 2)[:, line])

    return cells_of


def _known_cells(positions: FactoredMap, known: KnownStride8) -> Callable[[Part, Line], Tensor]:
    """`_cells` of a known image's positions."""
    rows = [right[:, None] @ known.of_rows for right in positions.right]
    assert positions.scale is not None
    scale = positions.scale.transpose(1, 2)

    def cells_of(part: Part, line: Line) -> Tensor:
        cells = part(known.at_stride8, 2)[:, line]
        for block, (left, right) in enumerate(zip(positions.left, rows, strict=True)):
            own = right[:, line] if part.prompts is None else right[part.prompts, line]
            of_row = _beside(part(left, 2).transpose(1, 2), line)
            cells = add_product(cells, of_row, own, is_spent=block > 0)
        base = known.of_base[None, line]
        return cells.addcmul_(part(base, base.ndim - 2), _beside(part(scale, 1), line))

    return cells_of


def _beside(values: Tensor, line: Line) -> Tensor:
    """Values that both lines share, with an axis for the two where both are wanted."""
    return values[:, None] if isinstance(line, slice) else values


def _of_prompts(maps: Tensor, image_index: Tensor | None) -> Tensor:
    """The map of each prompt's image: (I, ...) -> (B, ...), or (1, ...) when one image serves all."""
    return maps[image_index] if image_index is not None and maps.shape[0] > 1 else maps
