"""The prompt encoder as the reference builds and calls it. Legend: B prompts, N points, C channels, h w cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymask.model import prompt_encoder as ours
from anymask.prompts import PointLabel


class PositionEmbeddingRandom(ours.RandomFourierEncoding):
    """Random-Fourier encoding of positions (paper A) under the reference's method names."""

    def __init__(self, num_pos_feats: int = 64, scale: float | None = None) -> None:
        super().__init__(num_pos_feats)
        if scale is not None and scale > 0:
            self.positional_encoding_gaussian_matrix *= scale

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        """(..., 2) in [0, 1] -> (..., C)."""
        return super().forward(coords)

    def forward(self, size: tuple[int, int] | Tensor) -> Tensor:
        """The encodings (C, h, w) of a grid of `size` h, w; or of positions (..., 2), as our own code asks."""
        return super().forward(size) if isinstance(size, Tensor) else self.grid((size[0], size[1]))

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Pixels (B, N, 2), x then y, of an image of `image_size` height, width -> (B, N, C)."""
        return super().forward(coords_input.float() / coords_input.new_tensor(image_size[::-1], dtype=torch.float))


class PromptEncoder(ours.PromptEncoder):
    """Points, boxes and rough masks to sparse and dense prompt embeddings (paper 3, A)."""

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        """Sizes are height, width: of the embedding in cells, of the padded input in pixels."""
        super().__init__(embed_dim, mask_channels=mask_in_chans)
        self.image_embedding_size = image_embedding_size
        self.input_image_size = input_image_size
        self.mask_input_size = (4 * image_embedding_size[0], 4 * image_embedding_size[1])
        self.num_point_embeddings = len(self.point_embeddings)
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        if activation is not nn.GELU:
            self.mask_downscaling[2], self.mask_downscaling[5] = activation(), activation()

    def get_dense_pe(self) -> Tensor:
        """The encodings (1, C, h, w) of the image's cells."""
        return self.pe_layer.grid(self.image_embedding_size)[None]

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sparse (B, N, C) and dense (B, C, h, w) embeddings of B prompts.

        points: coordinates (B, N, 2) in input pixels and labels (B, N): 1, 0, or -1 for "not a point", which here, as
        in the reference, IS attended to (`SamPredictor` and `Sam` take padding away before). boxes (B, 4) or
        (B, 1, 4); masks (B, 1, 4h, 4w). Without anything it is one empty prompt.
        """
        points_xy, labels = labelled_points(points, boxes, masks)
        height, width = self.input_image_size
        positions = (points_xy + 0.5) / points_xy.new_tensor([width, height])
        sparse = self.encode_points(positions, labels)
        dense = self.encode_masks(masks).coarse(self.image_embedding_size)
        batch = len(labels) if masks is None else len(masks)
        return sparse.to(dense.dtype), dense.expand(batch, -1, *self.image_embedding_size)


def labelled_points(
    points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The reference's sparse prompts as labelled points (B, N, 2) and (B, N).

    One "not a point" follows points that come without a box, as in the reference; a box is its two corners.
    """
    given = next((value for value in (boxes, masks) if value is not None), None)
    if points is None:
        batch = 1 if given is None else len(given)
        device = None if given is None else given.device
        points_xy = torch.zeros(batch, 0, 2, device=device)
        labels = torch.zeros(batch, 0, dtype=torch.long, device=device)
    else:
        points_xy, labels = points[0], points[1].long()
    batch = len(labels)
    if boxes is not None:
        corners_xy = boxes.reshape(batch, 2, 2)
        kinds = labels.new_tensor([PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT])
    elif points is not None:
        corners_xy = points_xy.new_zeros(batch, 1, 2)
        kinds = labels.new_tensor([PointLabel.NOT_A_POINT])
    else:
        return points_xy, labels
    return torch.cat([points_xy, corners_xy], dim=1), torch.cat([labels, kinds.expand(batch, -1)], dim=1)
