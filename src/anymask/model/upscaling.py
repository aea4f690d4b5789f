"""From attended positions to masks: four times finer (paper A), line by line as matrix products.

Legend: I images, B prompts, C channels, h w embedding cells, P = h * w, S some of them, M mask outputs, C8 and C4
channels at strides 8 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from anymask.model.finer import by_line, line_weight
from anymask.model.image_encoder import ImageFeatures
from anymask.model.known_image import FactoredMap
from anymask.model.layers import LayerNorm2d, add_product, is_plain_inference
from anymask.model.prepared_features import KnownStride8, LineWeights, PreparedFeatures
from anymask.model.prompt_encoder import DensePrompt

# Numbers at stride 4 that are drawn at once on a CPU: what fits its cache, and what its memory allocator keeps
# ("measured": ViT-B's 8 MB maps cost 19 ms of a click of 33 in page faults alone).
NUMBERS_AT_ONCE = 1 << 19


class Upscaling(nn.Sequential):
    """Positions to features four times finer, and masks drawn from those.

    Where the image encoder gives skip maps, they are added after the convolutions.
    """

    def __init__(self, embed_dim: int, activation: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__(
            nn.ConvTranspose2d(embed_dim, embed_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(embed_dim // 4),
            activation(),
            nn.ConvTranspose2d(embed_dim // 4, embed_dim // 8, kernel_size=2, stride=2),
            activation(),
        )

    def line_weights(self) -> LineWeights:
        to_s8, _, _, to_s4, _ = self._parts()
        return LineWeights(
            *(torch.stack([line_weight(part.weight, line) for line in (0, 1)]) for part in (to_s8, to_s4))
        )

    def shared_by_prompts(self, skips: tuple[Tensor, ...], dense_prompt: DensePrompt) -> tuple[Tensor, Tensor]:
        """What is added for any prompt after each convolution: `PreparedFeatures.at_stride8` and `.at_stride4`.

        `dense_prompt` is any prompt's, of which only what all share is read.
        """
        to_s8, _, _, to_s4, _ = self._parts()
        bias_at_stride4 = to_s4.bias
        if dense_prompt.projection is not None:
            bias_at_stride4 = bias_at_stride4 + dense_prompt.projection.bias
        at_stride8 = to_s8.bias.repeat(2).expand(1, 2, 1, -1)
        at_stride4 = bias_at_stride4.repeat(2).expand(1, 4, 1, -1)
        if not skips:
            return at_stride8, at_stride4
        skip8, skip4 = skips
        return at_stride8 + by_line(skip8, 2), at_stride4 + by_line(skip4, 4)

    def _parts(self) -> tuple[Any, ...]:
        """Convolution to stride 8, norm, activation, convolution to stride 4, activation."""
        return tuple(self)

    def masks(
        self,
        positions: Tensor | FactoredMap,
        size_hw: tuple[int, int],
        features: PreparedFeatures,
        image_index: Tensor | None,
        dense_prompt: DensePrompt,
        heads: Tensor,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Mask logits (B, M, 4h, 4w) of positions (B, P, C) and heads (B, M, C4).

        With `wanted` (S,), the rows of some prompts, only these are drawn, and heads are theirs, (S, M, C4).

        The same numbers as by `straightforward`, but faster, in training too ("measured": 0.9 of a step's time). A
        transposed convolution of 2x2 at stride 2 is a matrix product that gives four finer cells for one; here two, on
        one finer line. So everything up to the masks is matrix products and work on single cells, and masks come line
        by line. On a CPU and without gradients a prompt's rows are drawn a few at a time.
        """
        is_drawn_in_turn = len(heads) > 0 and is_plain_inference(heads)
        if wanted is not None and (isinstance(positions, FactoredMap) or not is_drawn_in_turn):
            positions = positions[wanted]
            image_index, dense_prompt = _of_rows(wanted, features, image_index, dense_prompt)
            wanted = None
        at_stride4 = of_prompts(features.at_stride4, image_index)
        if isinstance(positions, FactoredMap):
            assert features.known_at_stride8 is not None
            cells = _known_cells(positions, features.known_at_stride8)
        else:
            cells = _cells(positions, features.weights.to_stride8, of_prompts(features.at_stride8, image_index))
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
        if not is_drawn_in_turn:
            return draw(partial(cells, Part()), at_stride4, maps, heads)
        rows = max(1, NUMBERS_AT_ONCE // (4 * width * heads.shape[-1]))
        drawn = []
        for head, index in zip(heads.split(1), range(len(heads)) if wanted is None else wanted.tolist(), strict=True):
            prompt = slice(index, index + 1)
            strips = []
            for top in range(0, height, rows):
                part = Part(prompt, slice(top * width, min(top + rows, height) * width))
                shown = None if maps is None else maps[prompt, :, top : top + rows]
                strips.append(draw(partial(cells, part), part(at_stride4, 2, beside=2), shown, head))
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
        wanted: Tensor | None = None,
    ) -> Tensor:
        """`masks` as the paper puts it, which gives the same numbers, to rounding."""
        if wanted is not None:
            positions = positions[wanted]
            image_index, dense_prompt = _of_rows(wanted, features, image_index, dense_prompt)
        to_s8, norm, act1, to_s4, act2 = self._parts()
        image = positions.transpose(1, 2).unflatten(2, size_hw)
        if not features.skips:
            upscaled = to_s4(act1(norm(to_s8(image))))
        else:
            skip8, skip4 = (of_prompts(skip, image_index) for skip in features.skips)
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
        _, norm, act1, _, act2 = self._parts()
        # Lines of four-times-finer cells, still a channel after the other: in rows of numbers, copied in rows.
        shown = None if maps is None else maps.permute(0, 3, 1, 2, 4).flatten(3).transpose(2, 3).unbind(1)
        added = at_stride4.unbind(1)  # one gradient for all lines, not one as large as all of them for each
        lines = []
        for line in range(4):
            if line % 2 == 0:
                cells = cells_of(line // 2).unflatten(2, (2, -1)).flatten(1, 2)
                cells = act1(norm.of_cells(cells))
            finer = (cells @ weights.to_stride4[line % 2]).add_(added[line])
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
        _, norm, act1, _, act2 = self._parts()
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


def _of_rows(
    rows: Tensor, features: ImageFeatures, image_index: Tensor | None, dense_prompt: DensePrompt
) -> tuple[Tensor | None, DensePrompt]:
    """The images and the dense prompts of some prompts."""
    if features.embedding.shape[0] > 1:
        image_index = rows if image_index is None else image_index[rows]
    return image_index, dense_prompt.of_rows(rows)


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


def of_prompts(maps: Tensor, image_index: Tensor | None) -> Tensor:
    """The map of each prompt's image: (I, ...) -> (B, ...), or (1, ...) when one image serves all."""
    return maps[image_index] if image_index is not None and maps.shape[0] > 1 else maps
