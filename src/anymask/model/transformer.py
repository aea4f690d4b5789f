"""Two-way transformer between prompt tokens and image positions (paper 3 and A).

Legend: B prompts, N tokens, P image positions, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.layers import is_plain_inference

# Float32 keeps seven digits, so that smaller weights add nothing to a sum ("assumed": far below what counts).
SMALLEST_SHARE = 1e-30


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
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
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
        """What many positions see of few values (B, N, C), given the scores (B, H, N, P): (B, P, C).

        A product that adds to `onto` passes over the positions once, which is what counts ("measured": a sum of two
        maps of `tiny` takes as long as a product of that size). So does one that writes where it reads: it copies none.
        """
        weights = _softmax(scores, dim=2).flatten(1, 2)
        # Each head's weights sum to one, so that a share of the bias in every value adds up to the bias.
        value = self._by_head(self.v_proj(v)) @ self.out_proj.weight.T + self.out_proj.bias / self.num_heads
        if onto is None:
            return weights.transpose(1, 2) @ value
        if is_spent and len(onto) == len(weights) and is_plain_inference(onto):
            return onto.baddbmm_(weights.transpose(1, 2), value)
        return _added(onto, weights.transpose(1, 2), value)

    def look_at_known(self, q: Tensor, known: KnownImage, shown: Shown | None = None) -> Tensor:
        """`forward` of tokens q (B, N, C) over a known image's keys and values, and what prompts show beside it."""
        query = self._heads(self.q_proj(q) * self._scale)
        scores = _times_known(query, known.keys)
        if shown is not None:
            scores = scores + shown.scores(query, self._seen_by(shown, self.k_proj))
        weights = _softmax(scores, dim=-1)
        attended = _times_known(weights, known.values)
        if shown is not None:
            attended = attended + shown.sums(weights, self._seen_by(shown, self.v_proj))
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def look_from_known(
        self, known: KnownImage, k: Tensor, v: Tensor, key_mask: Tensor | None, shown: Shown | None = None
    ) -> Tensor:
        """`forward` of a known image's queries, and of what prompts show beside it, over tokens k and v (B, N, C).

        What is seen is added to the image and to what is shown.
        """
        key = self._heads(self.k_proj(k) * self._scale)
        scores = _times_known(key, known.queries)
        if shown is not None:
            scores = scores + shown.scores(key, self._seen_by(shown, self.q_proj))
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, :, None], -torch.inf)
        if shown is None:
            return self._share_out(scores, v, known.image, is_spent=False)
        return self._share_out(scores, v, shown.added_to(known.image), is_spent=True)

    def _heads(self, projected: Tensor) -> Tensor:
        """(B, N, H * D) to (B, H, N, D)."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _seen_by(self, shown: Shown, projection: nn.Linear) -> Tensor:
        """What each head makes of the K things that prompts show: (H, K, D)."""
        return (shown.widen @ projection.weight.T).unflatten(1, (self.num_heads, -1)).transpose(0, 1)

    @property
    def _scale(self) -> float:
        return (self.q_proj.out_features // self.num_heads) ** -0.5

    def _by_head(self, projected: Tensor) -> Tensor:
        """(B, N, inner) once for each head, zero where other heads' channels are: (B, H * N, inner)."""
        return (projected[:, None] * self.head_channels).flatten(1, 2)


@dataclass(frozen=True)
class KnownImage:
    """An image that many prompts are asked about, and what the first layer makes of it alone.

    image (1, P, C); keys (H, D, P) and values (H, P, D) for the tokens that look at it; queries (H, D, P) with which
    its positions look at tokens. D is a head's width.
    """

    image: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor


@dataclass(frozen=True)
class Shown:
    """What each prompt adds to a known image: `cells` (B, P, K) times `widen` (K, C), where K is far below C.

    Attention is linear in what it looks at, so a head sees K numbers at a position and not C.
    """

    cells: Tensor
    widen: Tensor

    def added_to(self, image: Tensor) -> Tensor:
        """To an image (1, P, C): (B, P, C)."""
        return _added(image, self.cells, self.widen.expand(self.cells.shape[0], -1, -1))

    def scores(self, query: Tensor, seen: Tensor) -> Tensor:
        """Of query (B, H, N, D) with what is shown, which heads see as `seen` (H, K, D): (B, H, N, P)."""
        narrow = query @ seen.transpose(1, 2)
        return (narrow.flatten(1, 2) @ self.cells.transpose(1, 2)).unflatten(1, (seen.shape[0], -1))

    def sums(self, weights: Tensor, seen: Tensor) -> Tensor:
        """Of what is shown, with weights (B, H, N, P): (B, H, N, D)."""
        return (weights.flatten(1, 2) @ self.cells).unflatten(1, (seen.shape[0], -1)) @ seen


def _added(onto: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`onto` (B or 1, P, C) and the product of left (B, P, K) and right (B, K, C), in one pass over the positions."""
    if torch.jit.is_tracing():  # a graph has no such product: it would multiply `onto` by one before the sum
        return onto + left @ right
    return torch.baddbmm(onto, left, right)


def _times_known(left: Tensor, right: Tensor) -> Tensor:
    """(B, H, N, J) times (H, J, L), without a copy of it for every prompt: (B, H, N, L)."""
    batch, heads, count, _ = left.shape
    if batch == 1 or torch.jit.is_tracing():  # a graph's own product copies nothing
        return left @ right
    return (left.transpose(0, 1).flatten(1, 2) @ right).view(heads, batch, count, -1).transpose(0, 1)


def _heads_first(projected: Tensor, num_heads: int) -> Tensor:
    """(1, P, H * D) to (H, P, D)."""
    return projected[0].unflatten(-1, (num_heads, -1)).transpose(0, 1)


def _softmax(scores: Tensor, dim: int) -> Tensor:
    """Softmax whose smallest weights are `SMALLEST_SHARE` of the largest, and no denormal numbers.

    With those an Intel processor takes a hundred times as long for a product ("measured": 107 instead of 1.2 ms).
    """
    least = scores.amax(dim=dim, keepdim=True) + math.log(SMALLEST_SHARE)
    return torch.maximum(scores, least).softmax(dim=dim)


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

    def know(self, image: Tensor, image_pe: Tensor) -> KnownImage:
        """What this layer makes of one image and its encoding (1, P, C) whatever the prompts are."""
        looking, looked = self.cross_attn_image_to_token, self.cross_attn_token_to_image
        image_keys = image + image_pe
        keys = _heads_first(looked.k_proj(image_keys), looked.num_heads).transpose(1, 2).contiguous()
        values = _heads_first(looked.v_proj(image), looked.num_heads).contiguous()
        queries = _heads_first(looking.q_proj(image_keys), looking.num_heads).transpose(1, 2).contiguous()
        return KnownImage(image, keys, values, queries)

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_pe: Tensor,
        image_pe: Tensor,
        token_mask: Tensor | None,
        known: KnownImage | None = None,
        shown: Shown | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens and image after this layer.

        `known`: what `know` made of this very image, once for all prompts; `shown`: what they add to it, which is
        then not in `image` yet.
        """
        if self.is_first:
            # In the first layer the tokens ARE their encodings: adding them again, or a residual, would double them.
            tokens = self.self_attn(tokens, tokens, tokens, token_mask)
        else:
            query = tokens + token_pe
            tokens = tokens + self.self_attn(query, query, tokens, token_mask)
        tokens = self.norm1(tokens)

        if known is None:
            image_keys = image + image_pe
            seen = self.cross_attn_token_to_image(tokens + token_pe, image_keys, image)
        else:
            seen = self.cross_attn_token_to_image.look_at_known(tokens + token_pe, known, shown)
        tokens = self.norm2(tokens + seen)
        tokens = self.norm3(tokens + self.mlp(tokens))
        keys = tokens + token_pe
        if known is None:
            # The first layer's image is the caller's, a later one's the layer's before, which nobody reads again.
            image = self.cross_attn_image_to_token(
                image_keys, keys, tokens, token_mask, onto=image, is_spent=not self.is_first
            )
        else:
            image = self.cross_attn_image_to_token.look_from_known(known, keys, tokens, token_mask, shown)
        return tokens, self.norm4(image)


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

    def know(self, image: Tensor, image_pe: Tensor) -> KnownImage:
        """What `forward` answers more quickly from, for many prompts of this image (1, P, C)."""
        return self.layers[0].know(image, image_pe)  # type: ignore[operator]

    def forward(
        self,
        image: Tensor,
        image_pe: Tensor,
        tokens: Tensor,
        token_mask: Tensor | None = None,
        known: KnownImage | None = None,
        shown: Shown | None = None,
        wanted: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """image (B or 1, P, C), image_pe (1 or B, P, C), tokens (B, N, C) -> tokens (B, N, C), image (B, P, C).

        `known`: what `know` made of the image, if that is at hand, and `shown` what prompts add to it. `wanted`: so
        many of the tokens, from the first on, are given back.
        """
        token_pe = tokens
        for index, layer in enumerate(self.layers):
            first = (known, shown) if index == 0 else ()
            tokens, image = layer(tokens, image, token_pe, image_pe, token_mask, *first)
        tokens, token_pe = tokens[:, :wanted], token_pe[:, :wanted]
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image
