"""Attention over a grid with the decomposed relative position bias (paper A), in three forms that give the same.

Legend: P planes (one head of one window or image), N = h*w positions, D channels of a head.

The score of query (y, x) and key (v, u) is q.k / sqrt(D) + bias_h[y, x, v] + bias_w[y, x, u], where both factors depend
on the query alone. Their sum over all pairs is an N x N matrix for every plane, 805 MB for one global layer of
ViT-B, and writing it takes longer than the attention itself: the forms differ in how they do without.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# A part of the bias that is still in the processor's cache when it is read. The fused kernel is quicker where it sees
# 768 queries or more at once, 12.6 MB for ViT ("measured" on an Intel processor with a cache of 36 MB: 16 MB take a
# seventh less time than 4 MB; on an AMD one 2 to 8 MB are equally good).
BIAS_BYTES = 1 << 24


def position_bias(query: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors: query (P, h, w, D), unscaled, with rel_h (h, h, D) and rel_w (w, w, D) from `relative_positions`.

    Returns bias_h (P, h, w, h) and bias_w (P, h, w, w).
    """
    return torch.einsum("pyxc,yvc->pyxv", query, rel_h), torch.einsum("pyxc,xuc->pyxu", query, rel_w)


def relative_positions(table: Tensor, size: int) -> Tensor:
    """The vectors of all offsets on a line of `size` cells: (size, size, D), [query, key].

    A table learned at another size is interpolated along its offsets, as in the reference.
    """
    wanted = 2 * size - 1
    if table.shape[0] != wanted:
        resized = F.interpolate(table.T[None], size=wanted, mode="linear")
        table = resized[0].T
    index = torch.arange(size, device=table.device)
    return table[index[:, None] - index[None, :] + size - 1]


def attend_whole(query: Tensor, key: Tensor, value: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """The straightforward form, by which the others are tested: one bias matrix for everything.

    query, key and value (P, N, D), bias_h (P, h, w, h), bias_w (P, h, w, w) -> (P, N, D).
    """
    bias = (bias_h[..., :, None] + bias_w[..., None, :]).reshape(*query.shape[:2], key.shape[1])
    return _attention(query, key, value, bias=bias)


def attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, bias_h: Tensor, bias_w: Tensor, bias_bytes: int = BIAS_BYTES
) -> Tensor:
    """The same block by block, with one small bias that is written over again; has no gradient. For processors.

    A block is some planes together, or some grid rows of one plane where a whole one is too large.
    """
    planes, height, width, _ = bias_h.shape
    row_bytes = width * key.shape[1] * query.element_size()
    rows = max(1, min(height, bias_bytes // row_bytes))
    together = max(1, bias_bytes // (row_bytes * height)) if rows == height else 1
    attended = torch.empty_like(query)
    room = query.new_empty(together, rows, width, height, width)
    for plane in range(0, planes, together):
        some = slice(plane, plane + together)
        for top in range(0, height, rows):
            band, positions = slice(top, top + rows), slice(top * width, (top + rows) * width)
            factor_h, factor_w = bias_h[some, band, :, :, None], bias_w[some, band, :, None, :]
            bias = torch.add(factor_h, factor_w, out=room[: factor_h.shape[0], : factor_h.shape[1]])
            attended[some, positions] = _attention(
                query[some, positions], key[some], value[some], bias=bias.flatten(3).flatten(1, 2)
            )
    return attended


def attend_with_channels(query: Tensor, key: Tensor, value: Tensor, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """The same with the bias inside the scores: no N x N matrix, so that fused kernels of graphics cards can run.

    Both factors become further channels of the query, and the key says with ones in which row and column it lies:
    [q, bias_h, bias_w] . [k, row, column]. It costs h + w more channels in the scores, and none in the values.
    """
    planes, height, width, _ = bias_h.shape
    rows = torch.eye(height, dtype=key.dtype, device=key.device).repeat_interleave(width, dim=0)
    columns = torch.eye(width, dtype=key.dtype, device=key.device).repeat(height, 1)
    scaled = query * query.shape[-1] ** -0.5
    wide_query = torch.cat([scaled, bias_h.flatten(1, 2), bias_w.flatten(1, 2)], dim=-1)
    wide_key = torch.cat([key, torch.cat([rows, columns], dim=1).expand(planes, -1, -1)], dim=-1)
    return _attention(wide_query, wide_key, value, scale=1.0)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """PyTorch's fused kernels want four dimensions; with three it would write the whole matrix of scores."""
    mask = None if bias is None else bias[None]
    return F.scaled_dot_product_attention(query[None], key[None], value[None], attn_mask=mask, scale=scale)[0]
