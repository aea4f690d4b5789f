"""Two-way transformer between prompt tokens and image positions (paper 3 and A).

Legend: B prompts, N tokens, P image positions, C channels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.known_image import FactoredMap, KnownImage, KnownLayer, Projection, know_image
from anymask.model.layers import add_product

# Float32 keeps seven digits, so that smaller weights add nothing to a sum ("assumed": far below what counts), and even
# a product of two of these is no denormal number.
SMALLEST_SHARE = 1e-16


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than C (cross-attention runs at half, paper A)."""

    head_channels: Tensor

    def __init__(self, dim: int, num_heads: int, downsample_rate: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        inner_dim = dim // downsample_rate
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)
        channels = torch.eye(num_heads).repeat_interleave(inner_dim // num_heads, dim=1)[:, None]
        self.register_buffer("head_channels", channels, persistent=False)  # (H, 1, inner): ones at a head's own

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        onto: Tensor | None = None,
        is_spent: bool = False,
    ) -> Tensor:
        """q (B, Nq, C), k and v (B, Nk, C); `key_mask` (B, Nk) is True where a key may be attended to.

        What is the same for all prompts, q or k and v, may be given once, as (1, ..., C). `onto` (B or 1, Nq, C): what
        is seen is added to it, where it lies if it `is_spent`. Between few tokens and many positions it is folded into
        the tokens, but for dropout, which only the straightforward form knows.
        """
        few, many = sorted((q.shape[1], k.shape[1]))
        is_dropped = self.training and self.dropout > 0
        if not is_dropped and self.num_heads * few <= self.q_proj.out_features < many:
            if few == q.shape[1]:
                return self._few_queries(q, k, v, key_mask, onto)
            return self._few_keys(q, k, v, key_mask, onto, is_spent)
        return self.straightforward(q, k, v, key_mask, onto)

    def straightforward(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, onto: Tensor | None = None
    ) -> Tensor:
        """`forward` as the paper puts it; the other two forms give the same numbers, to rounding."""
        query, key, value = (self._heads(projected) for projected in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        if q.shape[0] != k.shape[0]:
            batch = max(q.shape[0], k.shape[0])
            query, key, value = (part.expand(batch, -1, -1, -1) for part in (query, key, value))
        mask = None if key_mask is None else key_mask[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        # The scale is the usual one; a graph that is not told works it out from shapes at every run.
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=self._scale
        )
        seen = self.out_proj(attended.transpose(1, 2).flatten(-2))
        return seen if onto is None else onto + seen

    def _few_queries(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, onto: Tensor | None) -> Tensor:
        """Few tokens look at many image positions. Nothing is projected per position, only per token and head.

        q . (k W_k) is (q W_k^T) . k, and sums of v W_v are sums of v times W_v. A query's scores may all shift by the
        same, so the keys' bias goes; its weights sum to one, so the values' bias is added at the end.
        """
        query = self._by_head(self.q_proj(q) * self._scale)
        scores = _times_shared(query @ self.k_proj.weight, k.transpose(1, 2))
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None], -torch.inf)
        attended = _times_shared(_softmax(scores, dim=-1), v) @ self.v_proj.weight.T
        attended = (attended.unflatten(1, (self.num_heads, -1)) * self.head_channels).sum(dim=1)
        seen = self.out_proj(attended + self.v_proj.bias)
        return seen if onto is None else onto + seen

    def _few_keys(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, onto: Tensor | None, is_spent: bool = False
    ) -> Tensor:
        """Many image positions look at few tokens. Again nothing is projected per position; see `_few_queries`."""
        key = self._by_head(self.k_proj(k) * self._scale)
        bias = (key @ self.q_proj.bias)[..., None]
        if key_mask is not None:
            bias = bias.masked_fill(~key_mask.repeat(1, self.num_heads)[..., None], -torch.inf)
        scores = _times_shared(key @ self.q_proj.weight, q.transpose(1, 2)) + bias
        return self._share_out(scores.unflatten(1, (self.num_heads, -1)), v, onto, is_spent)

    def _share_out(self, scores: Tensor, v: Tensor, onto: Tensor | None, is_spent: bool) -> Tensor:
        """What many positions see of few values (B, N, C), given the scores (B, H, N, P): (B, P, C)."""
        weights = _softmax(scores, dim=2).flatten(1, 2)
        # Each head's weights sum to one, so that a share of the bias in every value adds up to the bias.
        value = self._by_head(self.v_proj(v)) @ self.out_proj.weight.T + self.out_proj.bias / self.num_heads
        if onto is None:
            return weights.transpose(1, 2) @ value
        return add_product(onto, weights.transpose(1, 2), value, is_spent=is_spent)

    def look_at(self, q: Tensor, image: FactoredMap, keys: Projection, values: Projection) -> Tensor:
        """`forward` of tokens q (B, N, C) over an image that is never written out."""
        scores = image.products(self._heads(self.q_proj(q) * self._scale), keys)
        attended = image.sums(_softmax(scores, dim=-1), values)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def look_from(
        self, image: FactoredMap, queries: Projection, k: Tensor, v: Tensor, key_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What `forward` of such an image would see of tokens k and v (B, N, C), not yet put together.

        Shares (B, J, P) of each head and token, and each head's values (B, H, N, D + 1), with a one at their end.
        """
        scores = image.products(self._heads(self.k_proj(k) * self._scale), queries).unflatten(1, (self.num_heads, -1))
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, :, None], -torch.inf)
        return _softmax(scores, dim=2).flatten(1, 2), F.pad(self._heads(self.v_proj(v)), (0, 1), value=1.0)

    def _heads(self, projected: Tensor) -> Tensor:
        """(B, N, H * D) to (B, H, N, D)."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    @property
    def _scale(self) -> float:
        return (self.q_proj.out_features // self.num_heads) ** -0.5

    def _by_head(self, projected: Tensor) -> Tensor:
        """(B, N, inner) once for each head, zero where other heads' channels are: (B, H * N, inner)."""
        return (projected[:, None] * self.head_channels).flatten(1, 2)


def _softmax(scores: Tensor, dim: int) -> Tensor:
    """Softmax whose smallest weights are `SMALLEST_SHARE` of the largest, and no denormal numbers.

    With those an Intel processor takes a hundred times as long for a product ("measured": 107 instead of 1.2 ms).
    """
    least = scores.detach().amax(dim=dim, keepdim=True) + math.log(SMALLEST_SHARE)
    return scores.clamp(min=least).softmax(dim=dim)


def _times_shared(left: Tensor, right: Tensor) -> Tensor:
    """(B, M, K) times (B, K, L), or times (1, K, L) in one product of B * M rows: (B, M, L)."""
    if right.shape[0] == 1:
        return left @ right[0]
    return left @ right


class TokenMLP(nn.Module):
    """The token MLP of a two-way layer: two linear layers with ReLU (paper A: 2048 wide)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayLayer(nn.Module):
    """Token self-attention, token-to-image attention, token MLP, image-to-token attention (paper A)."""

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, *, is_first: bool, downsample_rate: int, dropout: float
    ) -> None:
        super().__init__()
        self.is_first = is_first
        self.self_attn = Attention(dim, num_heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample_rate, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = TokenMLP(dim, mlp_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample_rate, dropout)

    def forward(
        self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor, token_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens and image after this layer."""
        tokens = self._look_at_each_other(tokens, token_pe, token_mask)
        image_keys = image + image_pe
        tokens = self._think(tokens, self.cross_attn_token_to_image(tokens + token_pe, image_keys, image))
        # The first layer's image is the caller's, a later one's the layer's before, which nobody reads again.
        image = self.cross_attn_image_to_token(
            image_keys, tokens + token_pe, tokens, token_mask, onto=image, is_spent=not self.is_first
        )
        return tokens, self.norm4(image)

    def answer(
        self, tokens: Tensor, image: FactoredMap, token_pe: Tensor, known: KnownLayer, token_mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`forward` over an image of which `known` is known: the tokens, and what `look_from` has of the image."""
        tokens = self._look_at_each_other(tokens, token_pe, token_mask)
        seen = self.cross_attn_token_to_image.look_at(tokens + token_pe, image, known.keys, known.values)
        tokens = self._think(tokens, seen)
        attention = self.cross_attn_image_to_token
        return tokens, attention.look_from(image, known.queries, tokens + token_pe, tokens, token_mask)

    def _look_at_each_other(self, tokens: Tensor, token_pe: Tensor, token_mask: Tensor | None) -> Tensor:
        if self.is_first:
            # In the first layer the tokens ARE their encodings: adding them again, or a residual, would double them.
            return self.norm1(self.self_attn(tokens, tokens, tokens, token_mask))
        query = tokens + token_pe
        return self.norm1(tokens + self.self_attn(query, query, tokens, token_mask))

    def _think(self, tokens: Tensor, seen: Tensor) -> Tensor:
        tokens = self.norm2(tokens + seen)
        return self.norm3(tokens + self.mlp(tokens))


class TwoWayTransformer(nn.Module):
    """`depth` two-way layers and a last token-to-image attention.

    `token_mask` (B, N) is False at the padding of a ragged batch, so that an object gets exactly the answer it
    would get alone.
    """

    def __init__(
        self,
        depth: int,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        attention_downsample_rate: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayLayer(
                embedding_dim,
                num_heads,
                mlp_dim,
                is_first=index == 0,
                downsample_rate=attention_downsample_rate,
                dropout=dropout,
            )
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate, dropout)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(
        self,
        image: Tensor,
        image_pe: Tensor,
        tokens: Tensor,
        token_mask: Tensor | None = None,
        wanted: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """image (B or 1, P, C), image_pe (1 or B, P, C), tokens (B, N, C) -> tokens (B, N, C), image (B, P, C).

        `wanted`: so many of the tokens, from the first on, are given back.
        """
        return self._from(0, image, image_pe, tokens, tokens, token_mask, wanted)

    def _from(
        self,
        first: int,
        image: Tensor,
        image_pe: Tensor,
        tokens: Tensor,
        token_pe: Tensor,
        token_mask: Tensor | None,
        wanted: int | None,
    ) -> tuple[Tensor, Tensor]:
        """`forward` from some layer on."""
        for layer in self.layers[first:]:
            tokens, image = layer(tokens, image, token_pe, image_pe, token_mask)
        tokens, token_pe = tokens[:, :wanted], token_pe[:, :wanted]
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image

    def know(self, image: Tensor, image_pe: Tensor, shown: Tensor) -> KnownImage:
        """What `answer` answers from, for many prompts of one image and its encodings, (P, C) each.

        shown (K, C): the rows that prompts may add to the image.
        """
        return know_image(list(self.layers), self.final_attn_token_to_image, image, image_pe, shown)

    def suits(self, tokens: Tensor, known: KnownImage) -> bool:
        """Whether `answer` is less work than `forward`, for few tokens (B, N, C), and exact; a graph takes any."""
        if known.end is not None and torch.is_autocast_enabled(tokens.device.type):
            return False
        attention = self.final_attn_token_to_image
        return torch.jit.is_tracing() or attention.num_heads * tokens.shape[1] <= attention.q_proj.out_features

    def answer(
        self,
        known: KnownImage,
        image_pe: Tensor,
        cells: Tensor | None,
        tokens: Tensor,
        token_mask: Tensor | None = None,
        wanted: int | None = None,
    ) -> tuple[Tensor, Tensor | FactoredMap]:
        """`forward` over a known image, to which prompts add `cells` (B, K, P) times the first K rows it may show."""
        token_pe = tokens
        shown = [] if cells is None else [(cells, known.shown_rows[: cells.shape[1]].expand(cells.shape[0], -1, -1))]
        image = FactoredMap(None, tuple(left for left, _ in shown), tuple(right for _, right in shown))
        for index, known_layer in enumerate(known.layers):
            layer: Any = self.layers[index]
            tokens, seen = layer.answer(tokens, image, token_pe, known_layer, token_mask)
            if known.end is None:
                written = layer.norm4(image.written(known_layer, *seen))
                return self._from(index + 1, written, image_pe, tokens, token_pe, token_mask, wanted)
            image = image.after(known_layer, *seen)
        assert known.end is not None
        tokens, token_pe = tokens[:, :wanted], token_pe[:, :wanted]
        attended = self.final_attn_token_to_image.look_at(tokens + token_pe, image, known.end.keys, known.end.values)
        return self.norm_final_attn(tokens + attended), image
