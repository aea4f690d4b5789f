"""The two-way transformer as the reference builds and calls it. Legend: B prompts, N tokens, C channels, h w cells."""

from __future__ import annotations

from torch import Tensor, nn

from anymask.compat.segment_anything.modeling.common import MLPBlock
from anymask.model import transformer as ours
from anymask.model.transformer import Attention

__all__ = ["Attention", "TwoWayTransformer"]


class TwoWayTransformer(ours.TwoWayTransformer):
    """`depth` two-way layers and a last token-to-image attention."""

    def __init__(
        self,
        depth: int,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
    ) -> None:
        super().__init__(depth, embedding_dim, num_heads, mlp_dim, attention_downsample_rate)
        self.depth = depth
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        if activation is not nn.ReLU:
            for layer in self.layers:
                layer.mlp = MLPBlock(embedding_dim, mlp_dim, activation)

    def forward(
        self,
        image_embedding: Tensor,
        image_pe: Tensor,
        point_embedding: Tensor,
        token_mask: Tensor | None = None,
        wanted: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """image_embedding and image_pe (B, C, h, w) or (B, h * w, C), point_embedding (B, N, C) -> tokens, image.

        Tokens come back as (B, N, C), the image as (B, h * w, C). Maps are what the reference's callers pass, flat
        positions what our own decoder does.
        """
        image, image_pe = _positions(image_embedding), _positions(image_pe)
        return super().forward(image, image_pe, point_embedding, token_mask, wanted)


def _positions(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2) if maps.ndim == 4 else maps
