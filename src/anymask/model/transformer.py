"""Two-way transformer between prompt tokens and image positions (paper 3 and A).

Legend: B prompts, N tokens, P image positions, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than C (cross-attention runs at half, paper A)."""

    def __init__(self, dim: int, num_heads: int, downsample_rate: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        inner_dim = dim // downsample_rate
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """q (B, Nq, C), k and v (B, Nk, C); `key_mask` (B, Nk) is True where a key may be attended to.

        What is the same for all prompts, q or k and v, may be given once, as (1, ..., C). Between few tokens and many
        positions it is folded into the tokens, but for dropout, which only the straightforward form knows.
        """
        few, many = sorted((q.shape[1], k.shape[1]))
        is_dropped = self.training and self.dropout > 0
        if not is_dropped and self.num_heads * few <= self.q_proj.out_features < many:
            return self._few_queries(q, k, v, key_mask) if few == q.shape[1] else self._few_keys(q, k, v, key_mask)
        return self.straightforward(q, k, v, key_mask)

    def straightforward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """`forward` as the paper puts it; the other two forms give the same numbers, to rounding."""
        batch = max(q.shape[0], k.shape[0])
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2).expand(batch, -1, -1, -1)
            for projected in (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        )
        mask = None if key_mask is None else key_mask[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(-2))

    def _few_queries(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Few tokens look at many image positions. Nothing is projected per position, only per token and head.

        q . (k W_k) is (q W_k^T) . k, and sums of v W_v are sums of v times W_v. A query's scores may all shift by the
        same, so the keys' bias goes; its weights sum to one, so the values' bias is added at the end.
        """
        query = self.q_proj(q).unflatten(-1, (self.num_heads, -1))
        query = torch.einsum("bnhd,hdc->bhnc", query * query.shape[-1] ** -0.5, _by_head(self.k_proj.weight, self))
        scores = _times_shared(query.flatten(1, 2), k.transpose(1, 2))
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None], -torch.inf)
        attended = _times_shared(scores.softmax(dim=-1), v).unflatten(1, (self.num_heads, -1))
        attended = torch.einsum("bhnc,hdc->bnhd", attended, _by_head(self.v_proj.weight, self)).flatten(-2)
        return self.out_proj(attended + self.v_proj.bias)

    def _few_keys(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Many image positions look at few tokens. Again nothing is projected per position; see `_few_queries`."""
        key, value = (projected.unflatten(-1, (self.num_heads, -1)) for projected in (self.k_proj(k), self.v_proj(v)))
        key = key * key.shape[-1] ** -0.5
        bias = torch.einsum("bnhd,hd->bhn", key, self.q_proj.bias.unflatten(0, (self.num_heads, -1)))
        if key_mask is not None:
            bias = bias.masked_fill(~key_mask[:, None], -torch.inf)
        key = torch.einsum("bnhd,hdc->bhnc", key, _by_head(self.q_proj.weight, self))
        scores = _times_shared(key.flatten(1, 2), q.transpose(1, 2)).unflatten(1, (self.num_heads, -1))
        weights = (scores + bias[..., None]).softmax(dim=2).flatten(1, 2)
        # Each head's weights sum to one, so that a share of the bias in every value adds up to the bias.
        value = torch.einsum("bnhd,hdc->bhnc", value, _by_head(self.out_proj.weight.T, self))
        value = value + self.out_proj.bias / self.num_heads
        return weights.transpose(1, 2) @ value.flatten(1, 2)


def _by_head(weight: Tensor, attention: Attention) -> Tensor:
    """A projection's weight (inner, C) as (H, inner / H, C)."""
    return weight.unflatten(0, (attention.num_heads, -1))


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
        if self.is_first:
            # In the first layer the tokens ARE their encodings: adding them again, or a residual, would double them.
            tokens = self.self_attn(tokens, tokens, tokens, token_mask)
        else:
            query = tokens + token_pe
            tokens = tokens + self.self_attn(query, query, tokens, token_mask)
        tokens = self.norm1(tokens)

        image_keys = image + image_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, image_keys, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(image_keys, tokens + token_pe, tokens, token_mask))
        return tokens, image


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
        self, image: Tensor, image_pe: Tensor, tokens: Tensor, token_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """image (B, P, C), image_pe (1 or B, P, C), tokens (B, N, C) -> tokens (B, N, C), image (B, P, C)."""
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe, token_mask)
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image
