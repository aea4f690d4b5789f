"""What a two-way transformer makes of one image before any prompt comes, so that no prompt needs a map of its own.

After each layer the image of a prompt is, at a position p,

    scale(p) * base(p)  +  sum over r of left(r, p) * right(r)  +  a constant,

where `base` is the image's alone: attention adds a few rows (what positions see of the prompt's tokens is a share for
each head and token of the same few values), and a norm only scales positions and channels, once all is centred. So a
prompt has R rows over the positions, a fifth of an image's channels with the paper's widths, and all products with
the image itself are of a head's width, against what is known beforehand.

Legend: B prompts, N tokens, H heads of D channels, J = H * N, P positions, C channels. Rows come in blocks of R: what
prompts show (K of them), then what positions saw in each layer (J of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anymask.model.layers import add_product, is_plain_inference

# One click and what stands for "no box", the tokens of the four masks and of their IoU.
TOKENS_OF_A_CLICK = 7
# Where a click has more rows than this share of the channels, maps that are written out are as quick ("measured":
# `tiny` has 0.61 and gains nothing, the paper's models have 0.50 and need 15 instead of 20 ms a prompt before drawing).
ROWS_THAT_PAY = 0.55


@dataclass(frozen=True)
class Projection:
    """What a linear layer with H heads makes of a map with a `base`, `right` rows and a constant.

    of_base (H, D, P), to be scaled; of_places (H, D, P) of the positions' encodings, which are not (None: in of_base
    already); of_rows (C, H * D); bias (H, 1, D), where it counts.
    """

    of_base: Tensor
    of_rows: Tensor
    of_places: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class KnownNorm:
    """The norm of the image that ends a layer: its eps, and products of what is centred with the base.

    squares (1, 1, P), of_rows (K, P) and, for each layer so far, crossed (H, D + 1, P).
    """

    eps: float
    squares: Tensor
    of_rows: Tensor
    crossed: tuple[Tensor, ...]


@dataclass(frozen=True)
class KnownLayer:
    """One layer of two-way attention, and what the norm after it meets.

    keys, values: for the tokens that look at the image; queries: with which its positions look at tokens. base (P, C),
    rows (K, C), what prompts may show, and for each layer so far `outward` (H, D + 1, C), from a head's values and a
    one to a row: all centred. norm: None where maps are written out.
    """

    keys: Projection
    values: Projection
    queries: Projection
    base: Tensor
    rows: Tensor
    outward: tuple[Tensor, ...]
    norm: KnownNorm | None


@dataclass(frozen=True)
class KnownEnd:
    """What comes after all layers: keys and values of the tokens' last look, and the image's last map.

    base (P, C), row_weight (C,), with which its rows are still to be multiplied, and constant (C,).
    """

    keys: Projection
    values: Projection
    base: Tensor
    row_weight: Tensor
    constant: Tensor


@dataclass(frozen=True)
class KnownImage:
    """All layers and the end, or the first layer alone where rows would be too many to pay (then there is no `end`).

    shown_rows (K, C): what prompts may show, before the first layer.
    """

    shown_rows: Tensor
    layers: tuple[KnownLayer, ...]
    end: KnownEnd | None


@dataclass(frozen=True)
class FactoredMap:
    """A prompt's image, see above: scale (B, 1, P) or None (one), blocks of rows, left (B, R, P) and right (B, R, C).

    values (B, H, N, D + 1) of each layer so far, and a one.
    """

    scale: Tensor | None
    left: tuple[Tensor, ...]
    right: tuple[Tensor, ...]
    values: tuple[Tensor, ...] = ()

    def products(self, heads: Tensor, projection: Projection) -> Tensor:
        """Of (B, H, N, D) with what a projection makes of each position: (B, J, P)."""
        products = times_known(heads, projection.of_base)
        places = None if projection.of_places is None else times_known(heads, projection.of_places)
        if self.scale is not None:
            products = _scaled(products, self.scale[:, None], places)
        elif places is not None:
            products = products + places
        products = products.flatten(1, 2)
        for left, rows in zip(self.left, self._rows(projection, heads.shape[1]), strict=True):
            products = add_product(products, (heads @ rows.transpose(2, 3)).flatten(1, 2), left, is_spent=True)
        return products

    def sums(self, weights: Tensor, projection: Projection) -> Tensor:
        """Of what a projection makes of the positions, with weights (B, J, P) that add up to one: (B, H, N, D)."""
        num_heads = len(projection.of_base)
        scaled = weights if self.scale is None else weights * self.scale
        sums = times_known(scaled.unflatten(1, (num_heads, -1)), projection.of_base.transpose(1, 2))
        for left, rows in zip(self.left, self._rows(projection, num_heads), strict=True):
            sums = sums + (weights @ left.transpose(1, 2)).unflatten(1, (num_heads, -1)) @ rows
        return sums if projection.bias is None else sums + projection.bias

    def after(self, layer: KnownLayer, shares: Tensor, values: Tensor) -> FactoredMap:
        """With what positions see added, `shares` (B, J, P) of `values` (B, H, N, D + 1), and normed."""
        norm = layer.norm
        assert norm is not None
        seen = (*self.values, values)
        left = (*self.left, shares)
        right = [times_known(one, outward).flatten(1, 2) for one, outward in zip(seen, layer.outward, strict=True)]
        of_base = [times_known(one, crossed) for one, crossed in zip(seen, norm.crossed, strict=True)]
        if len(left) > len(seen):  # prompts show something
            num_shown = left[0].shape[1]
            right = [layer.rows[:num_shown].expand(left[0].shape[0], -1, -1), *right]
            of_base = [norm.of_rows[:num_shown].expand(left[0].shape[0], 1, -1, -1), *of_base]
        # |scale * base + sum of left * right|^2 at each position, the products of two different blocks taken twice.
        squares = norm.squares if self.scale is None else norm.squares * self.scale.square()
        for block, (products, own) in enumerate(zip(of_base, left, strict=True)):
            if self.scale is not None:
                products = _scaled(products, self.scale[:, None], None)
            mixed = right[block] @ right[block].transpose(1, 2)
            doubled = add_product(products.flatten(1, 2), mixed, own, times=2)
            for other in range(block + 1, len(left)):
                mixed = 2 * right[block] @ right[other].transpose(1, 2)
                doubled = add_product(doubled, mixed, left[other], is_spent=True)
            squares = squares + _multiplied(doubled, own).sum(dim=1, keepdim=True)
        scale = torch.rsqrt(squares / right[0].shape[2] + norm.eps)
        # What prompts show is the caller's until it has been scaled once.
        earlier = [part * scale if self.scale is None else _multiplied(part, scale) for part in self.left]
        left = (*earlier, _multiplied(shares, scale))
        return FactoredMap(scale if self.scale is None else self.scale * scale, left, tuple(right), seen)

    def written(self, layer: KnownLayer, shares: Tensor, values: Tensor) -> Tensor:
        """The map (B, P, C) that a norm makes the same of as `after`; of an image that no norm has seen yet."""
        assert self.scale is None
        written, lefts = layer.base[None], (*self.left, shares)
        rows = [layer.rows[: left.shape[1]].expand(left.shape[0], -1, -1) for left in self.left]
        rows.append(times_known(values, layer.outward[-1]).flatten(1, 2))
        if torch.jit.is_tracing():  # a graph has no product that adds, so that one is better than several and their sum
            return written + torch.cat(lefts, dim=1).transpose(1, 2) @ torch.cat(rows, dim=1)
        for block, (left, right) in enumerate(zip(lefts, rows, strict=True)):
            written = add_product(written, left.transpose(1, 2), right, is_spent=block > 0)
        return written

    def __len__(self) -> int:
        return len(self.left[-1])

    def __getitem__(self, prompts: Tensor) -> FactoredMap:
        """The maps of some prompts."""
        left, right, values = (tuple(part[prompts] for part in parts) for parts in (self.left, self.right, self.values))
        return FactoredMap(None if self.scale is None else self.scale[prompts], left, right, values)

    def _rows(self, projection: Projection, num_heads: int) -> list[Tensor]:
        """What each head makes of each block of rows: (B, H, R, D)."""
        return [(right @ projection.of_rows).unflatten(2, (num_heads, -1)).transpose(1, 2) for right in self.right]


def know_image(layers: Sequence[Any], last: Any, image: Tensor, image_pe: Tensor, shown: Tensor) -> KnownImage:
    """What `layers` (of `TwoWayLayer`) and the `last` attention make of an image and its encodings, (P, C) each.

    shown (K, C): the rows that prompts may add to the image.
    """
    rows_of_a_click = len(shown) + len(layers) * last.num_heads * TOKENS_OF_A_CLICK
    # A norm is worked out from squares of what adds up to its map, which half precision is too coarse for.
    is_whole = rows_of_a_click <= ROWS_THAT_PAY * image.shape[1] and image.dtype in (torch.float32, torch.float64)
    base, weight, constant, rows = image, torch.ones_like(image[0]), torch.zeros_like(image[0]), shown
    known: list[KnownLayer] = []
    outward: list[Tensor] = []
    for layer in layers if is_whole else layers[:1]:
        is_first = not known
        looked, looking, norm = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token, layer.norm4
        keys, values = _keys(looked, base, weight, image_pe, is_first), _values(looked, base, weight, constant)
        queries = _queries(looking, base, weight, constant, image_pe, is_first)
        # All of a position's weights of a head add up to one, so that shares of a constant add up to it.
        even = (looking.out_proj.bias + constant) / looking.num_heads
        heads = looking.out_proj.weight.T.unflatten(0, (looking.num_heads, -1))
        own = torch.cat([heads, even.expand(len(heads), 1, -1)], dim=1)
        outward = [_centred(part) for part in (*(earlier * weight for earlier in outward), own)]
        base, rows = _centred(base), _centred(rows * weight)
        known_norm = None
        if is_whole:
            crossed = tuple(one @ base.T for one in outward)
            known_norm = KnownNorm(norm.eps, base.square().sum(dim=1)[None, None], rows @ base.T, crossed)
        known.append(KnownLayer(keys, values, queries, base, rows, tuple(outward), known_norm))
        weight, constant = norm.weight, norm.bias
        base = base * weight
    end = None
    if is_whole:
        keys, values = _keys(last, base, weight, image_pe, not known), _values(last, base, weight, constant)
        end = KnownEnd(keys, values, base, weight, constant)
    return KnownImage(shown, tuple(known), end)


def _keys(attention: Any, base: Tensor, weight: Tensor, image_pe: Tensor, is_first: bool) -> Projection:
    """All of a query's scores may shift alike: neither bias nor constant counts."""
    matrix = attention.k_proj.weight.T
    if is_first:
        return Projection(_by_head((base + image_pe) @ matrix, attention), matrix)
    of_base, of_places = _by_head(base @ matrix, attention), _by_head(image_pe @ matrix, attention)
    return Projection(of_base, weight[:, None] * matrix, of_places)


def _values(attention: Any, base: Tensor, weight: Tensor, constant: Tensor) -> Projection:
    matrix = attention.v_proj.weight.T
    bias = (constant @ matrix + attention.v_proj.bias).view(attention.num_heads, 1, -1)
    return Projection(_by_head(base @ matrix, attention), weight[:, None] * matrix, bias=bias)


def _queries(
    attention: Any, base: Tensor, weight: Tensor, constant: Tensor, image_pe: Tensor, is_first: bool
) -> Projection:
    matrix, bias = attention.q_proj.weight.T, attention.q_proj.bias
    if is_first:
        return Projection(_by_head((base + image_pe) @ matrix + bias, attention), matrix)
    of_places = _by_head((constant + image_pe) @ matrix + bias, attention)
    return Projection(_by_head(base @ matrix, attention), weight[:, None] * matrix, of_places)


def _by_head(projected: Tensor, attention: Any) -> Tensor:
    """(P, H * D) to (H, D, P)."""
    return projected.T.unflatten(0, (attention.num_heads, -1)).contiguous()


def _centred(rows: Tensor) -> Tensor:
    """A norm takes the mean over the channels from each row, so that it may be taken from what rows are made of."""
    return rows - rows.mean(dim=-1, keepdim=True)


def times_known(left: Tensor, right: Tensor) -> Tensor:
    """(B, H, N, J) times (H, J, L), without a copy of it for every prompt: (B, H, N, L)."""
    batch, heads, count, _ = left.shape
    if batch == 1 or torch.jit.is_tracing():  # a graph's own product copies nothing
        return left @ right
    return (left.transpose(0, 1).flatten(1, 2) @ right).view(heads, batch, count, -1).transpose(0, 1)


def _multiplied(spent: Tensor, by: Tensor) -> Tensor:
    return spent.mul_(by) if is_plain_inference(spent) else spent * by


def _scaled(products: Tensor, scale: Tensor, places: Tensor | None) -> Tensor:
    """Products (B, H, N, P) times a scale, and what is added to them, in the order of the axes in memory."""
    if not is_plain_inference(products):
        return products * scale if places is None else products * scale + places
    out = torch.empty_like(products, memory_format=torch.contiguous_format)
    if places is None:
        return torch.mul(products, scale, out=out)
    return torch.addcmul(places, products, scale, out=out)
