"""Prompts to tokens (paper 3 and A). Legend: B prompts, N points, C channels, H W model pixels, h w grid cells.

Every sparse prompt is a list of labelled points. A box is its two corners with labels of their own, so points,
boxes and any mixture share one (B, N, 2) tensor and one batch can hold all kinds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.finer import four_beside
from anymask.model.layers import LayerNorm2d, is_inference, is_plain_inference
from anymask.prompts import PointLabel


class RandomFourierEncoding(nn.Module):
    """Random-Fourier encoding of a position in [0, 1] (paper A)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_features))
        self._kept: tuple[tuple[tuple[int, int], tuple[float, float]], Tensor, Tensor] | None = None

    def forward(self, positions_xy: Tensor) -> Tensor:
        """(..., 2) in [0, 1] -> (..., 2 * num_features)."""
        matrix = self.positional_encoding_gaussian_matrix
        centred = 2 * positions_xy.to(matrix.dtype) - 1
        # Two products and a sum, not a matrix product: autocast would run that in half precision and move points.
        angles = 2 * math.pi * (centred[..., :1] * matrix[0] + centred[..., 1:] * matrix[1])
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, size_hw: tuple[int, int], extent_hw: tuple[float, float] = (1.0, 1.0)) -> Tensor:
        """Encodings of the cell centres of an h x w grid that covers `extent_hw` of the unit square: (C, h, w).

        On a CPU the last one is kept: making it costs a tenth of a click with ViT-B ("measured": 1.6 of 15 ms).
        """
        matrix = self.positional_encoding_gaussian_matrix
        is_traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if matrix.device.type != "cpu" or torch.is_grad_enabled() or is_traced:
            return self._grid(size_hw, extent_hw)
        if self._kept is None or self._kept[0] != (size_hw, extent_hw) or not torch.equal(self._kept[1], matrix):
            self._kept = ((size_hw, extent_hw), matrix.clone(), self._grid(size_hw, extent_hw))
        return self._kept[2]

    def _grid(self, size_hw: tuple[int, int], extent_hw: tuple[float, float]) -> Tensor:
        device = self.positional_encoding_gaussian_matrix.device
        y, x = (
            (torch.arange(size, device=device) + 0.5) * (extent / size)
            for size, extent in zip(size_hw, extent_hw, strict=True)
        )
        grid_xy = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)
        return self(grid_xy).permute(2, 0, 1)


class ClickFeatures(nn.Module):
    """Adds to a clicked point's token the image features found at the clicked place.

    Not in the paper: a small encoder has no room to carry every object's identity through 16-pixel cells, so the
    token is told directly what lies under the finger ("measured": every from-scratch run that took off had it).
    """

    def __init__(self, channels: tuple[int, ...], embed_dim: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(c, embed_dim) for c in channels)

    def forward(self, maps: tuple[Tensor, ...], positions_xy: Tensor, image_index: Tensor) -> Tensor:
        """maps: (I, C_l, h_l, w_l) each; positions (B, N, 2) in [0, 1] of the maps; image_index (B,) -> (B, N, C)."""
        if is_inference(self) and maps[0].shape[0] == 1 and maps[0].dtype == positions_xy.dtype:
            # The places are the same in all maps, and from -1 to 1 over them, edge to edge.
            places = (2 * positions_xy - 1)[None]
            sampled = [
                F.grid_sample(feature_map, places, padding_mode="border", align_corners=False)[0].permute(1, 2, 0)
                for feature_map in maps
            ]
        else:
            sampled = [_sample_bilinear(feature_map, positions_xy, image_index) for feature_map in maps]
        projected = [projection(values) for projection, values in zip(self.projections, sampled, strict=True)]
        return sum(projected[1:], projected[0])


def _sample_bilinear(feature_map: Tensor, positions_xy: Tensor, image_index: Tensor) -> Tensor:
    """Values of (I, C, h, w) at (B, N, 2) positions in [0, 1], each of its own image: (B, N, C)."""
    height, width = feature_map.shape[-2:]
    size_xy = positions_xy.new_tensor([width, height])
    position = (positions_xy * size_xy - 0.5).clamp(min=0)
    position = torch.minimum(position, size_xy - 1)
    corner = position.floor()
    fraction_x, fraction_y = (position - corner).to(feature_map.dtype).unbind(-1)
    x0, y0 = corner.long().unbind(-1)
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    image = image_index[:, None].expand_as(x0)
    channels_last = feature_map.permute(0, 2, 3, 1)
    top = torch.lerp(channels_last[image, y0, x0], channels_last[image, y0, x1], fraction_x[..., None])
    bottom = torch.lerp(channels_last[image, y1, x0], channels_last[image, y1, x1], fraction_x[..., None])
    return torch.lerp(top, bottom, fraction_y[..., None])


# Radii of a click in the prompt maps, in map cells: the place itself, and its neighbourhood ("assumed").
CLICK_RADII = (1.5, 8.0)
NUM_PROMPT_MAPS = 2 * len(CLICK_RADII) + 1
DRAWN_KINDS = (PointLabel.FOREGROUND, PointLabel.BACKGROUND, PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT)


def draw_prompt_maps(points_xy: Tensor, labels: Tensor, size_hw: tuple[int, int], stride: float) -> Tensor:
    """Clicks as soft discs and the box as a filled rectangle on an H x W grid with cells of `stride` model pixels.

    points_xy (B, N, 2) model pixels, labels (B, N). Returns (B, 5, H, W): foreground clicks small and wide, background
    clicks small and wide, box; values 0 to 1.
    """
    height, width = size_hw
    # Both axes on one line, columns and then rows: how far each of their cells lies from each point, (B, N, W + H).
    cells = torch.cat([torch.arange(size, device=points_xy.device) for size in (width, height)]) + 0.5
    x, y = (points_xy / stride).unsqueeze(-1).unbind(2)
    distances = cells - torch.cat([x.expand(-1, -1, width), y.expand(-1, -1, height)], dim=-1)
    kinds = labels.new_tensor(DRAWN_KINDS)
    is_kind = (labels[:, None] == kinds[:, None]).to(points_xy.dtype)  # B, kinds, N
    # A round Gaussian is the product of one along x and one along y: a batched matrix product draws them all.
    radii = points_xy.new_tensor(CLICK_RADII)[:, None, None]
    across, down = torch.exp(-0.5 * (distances[:, None] / radii).square()).split([width, height], dim=-1)
    across = across[:, None] * is_kind[:, :2, None, :, None]
    clicks = (down.transpose(2, 3)[:, None] @ across).clamp(max=1).flatten(1, 2)
    # How far past the first corner, and how far before the last one, a cell is covered by the box.
    past, before = (is_kind[:, 2:] @ distances).unbind(1)
    columns, rows = ((past + 0.5).clamp(0, 1) * (0.5 - before).clamp(0, 1)).split([width, height], dim=-1)
    box = (rows * is_kind[:, 2].sum(dim=1, keepdim=True))[:, :, None] * columns[:, None]
    return torch.cat([clicks, box[:, None]], dim=1)


@dataclass(frozen=True)
class DensePrompt:
    """What is added to the image.

    To the embedding: `base` (B or 1, C, h or 1, w or 1), which all prompts of a `PromptEncoder` share, and what each
    prompt shows of its own, `shown` (B, K, P) times the first K rows of `widen` (K or more, C), which is the same for
    all prompts and where K is far smaller than C. Where prompts are drawn, `maps` (B, K, 4h, 4w) become `fine` (B, C4,
    4h, 4w) by `projection` and go into the upscaling.
    """

    base: Tensor
    widen: Tensor
    shown: Tensor | None = None
    maps: Tensor | None = None
    projection: nn.Conv2d | None = None

    def coarse(self, size_hw: tuple[int, int]) -> Tensor:
        """All that is added to an embedding of this size: (B or 1, C, h or 1, w or 1)."""
        if self.shown is None:
            return self.base
        return self.base + (self.widen[: self.shown.shape[1]].T @ self.shown).unflatten(2, size_hw)

    @property
    def fine(self) -> Tensor | None:
        """What the upscaling adds at stride 4: (B or 1, C4, 4h or 1, 4w or 1). No maps are maps of zeros."""
        if self.projection is None or self.maps is None:
            return None if self.projection is None else self.projection.get_parameter("bias")[:, None, None]
        return self.projection(self.maps)

    def of_rows(self, rows: Tensor) -> DensePrompt:
        """The maps of some prompts, for the upscaling."""
        return replace(self, maps=None if self.maps is None else self.maps[rows])


class PromptEncoder(nn.Module):
    """Points, boxes and rough masks to what the mask decoder reads.

    `embed_dim` is C; `mask_channels` the width of the small mask network (paper A: 4 channels, then 16). Not in the
    paper, for small models: `click_channels` switches on `ClickFeatures`; with `fine_channels` clicks and box are
    drawn as maps beside the rough mask, which go into the dense prompt and, at full resolution, into the upscaling.
    """

    def __init__(
        self,
        embed_dim: int,
        mask_channels: int = 16,
        click_channels: tuple[int, ...] | None = None,
        fine_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.has_prompt_maps = fine_channels is not None
        self.pe_layer = RandomFourierEncoding(embed_dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1 + NUM_PROMPT_MAPS * self.has_prompt_maps, mask_channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)
        if fine_channels is not None:
            self.fine_projection = nn.Conv2d(1 + NUM_PROMPT_MAPS, fine_channels, kernel_size=1)
        self.click_features = None if click_channels is None else ClickFeatures(click_channels, embed_dim)

    def encode_points(self, positions_xy: Tensor, labels: Tensor, click_features: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) of points at (B, N, 2) in [0, 1] of the model's square with labels (B, N).

        `click_features` (B, N, C) is added to foreground and background points alone.
        """
        tokens = self.pe_layer(positions_xy)
        is_point = (labels >= PointLabel.BACKGROUND)[..., None]
        embeddings = [self.not_a_point_embed, *self.point_embeddings]
        kinds = torch.cat([embedding.get_parameter("weight") for embedding in embeddings])
        # Row 0 is "not a point", 1 to 4 the four kinds; padding takes row 0 too, no token will look at it.
        kind = kinds[(labels + 1).clamp(min=0)]
        tokens = tokens * is_point + kind
        if click_features is not None:
            is_click = ((labels == PointLabel.BACKGROUND) | (labels == PointLabel.FOREGROUND))[..., None]
            tokens = tokens + click_features * is_click
        return tokens

    def encode_masks(
        self, mask_logits: Tensor | None, has_mask: Tensor | None = None, prompt_maps: Tensor | None = None
    ) -> DensePrompt:
        """The dense prompt of B masks.

        `mask_logits` (B, 1, 4h, 4w); `has_mask` (B,) bool says which rows hold one (None: all); `prompt_maps`
        (B, 5, 4h, 4w) from `draw_prompt_maps`, where the encoder has them.
        """
        base = self.base_prompt()
        if prompt_maps is None and mask_logits is None:
            return base
        masked = None
        if mask_logits is not None:
            masked = mask_logits.new_ones(len(mask_logits)) if has_mask is None else has_mask.to(mask_logits.dtype)
            masked = masked[:, None, None, None]
            mask_logits = mask_logits * masked
        if prompt_maps is None:
            maps = mask_logits
        elif mask_logits is None:
            maps = F.pad(prompt_maps, (0, 0, 0, 0, 1, 0))
        else:
            maps = torch.cat([mask_logits, prompt_maps], dim=1)
        assert maps is not None
        shown = self._downscale(maps)
        if masked is not None:
            masked = masked[:, 0]
            if not self.has_prompt_maps:
                shown = shown * masked
            shown = torch.cat([shown, masked.expand(-1, -1, shown.shape[2])], dim=1)
        return replace(base, shown=shown, maps=None if prompt_maps is None else maps)

    def base_prompt(self) -> DensePrompt:
        """What every prompt adds to the image before it shows anything of its own."""
        no_mask = self.no_mask_embed.weight
        widen: Any = self.mask_downscaling[-1]
        # The base stands for "no mask", which a mask takes away by the last row; in the paper's form nothing else is
        # shown without a mask.
        taken = -no_mask if self.has_prompt_maps else widen.bias - no_mask
        rows = torch.cat([widen.weight.flatten(1).T, taken])
        base = no_mask[..., None, None]
        if not self.has_prompt_maps:
            return DensePrompt(base, rows)
        return DensePrompt(base + widen.bias[:, None, None], rows, projection=self.fine_projection)

    def _downscale(self, maps: Tensor) -> Tensor:
        """Maps (B, J, 4h, 4w) to (B, K, P), as `mask_downscaling` does it up to its last layer, which widens."""
        layers: tuple[Any, ...] = tuple(self.mask_downscaling)
        to_s2, norm2, act2, to_s4, norm4, act4, _ = layers
        return act4(_halved(to_s4, norm4, act2(_halved(to_s2, norm2, maps)))).flatten(2)


def _halved(convolution: nn.Conv2d, norm: LayerNorm2d, maps: Tensor) -> Tensor:
    """The norm of a 2x2 convolution at stride 2 of maps (B, J, 2h, 2w): (B, K, h, w).

    The channels' mean is taken from the weights, and channels stay whole maps: of so few, a norm of each cell by itself
    takes longer than all else ("measured" with tiny: 0.34 instead of 0.85 ms a prompt for all of `_downscale`, a
    twentieth of a click in onnxruntime). On a processor the convolution, which looks at every cell once, is a matrix
    product: above all in one thread, where PyTorch has a slow way for convolutions.
    """
    assert convolution.bias is not None
    weight = convolution.weight - convolution.weight.mean(dim=0)
    bias = convolution.bias - convolution.bias.mean()
    if is_plain_inference(maps):
        size_hw = (maps.shape[2] // 2, maps.shape[3] // 2)
        centred = (weight.flatten(1) @ four_beside(maps) + bias[:, None]).unflatten(2, size_hw)
    else:
        centred = F.conv2d(maps, weight, bias, stride=2)
    scale = torch.rsqrt(centred.float().square().mean(dim=1, keepdim=True) + norm.eps).to(centred.dtype)
    return torch.addcmul(norm.bias[:, None, None], centred * scale, norm.weight[:, None, None])


def normalise_positions(points_xy: Tensor, input_size: int) -> Tensor:
    """Model pixels to [0, 1] of the model's square, taken at the pixel centre as in the reference."""
    return (points_xy + 0.5) / input_size
