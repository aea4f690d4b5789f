"""Masked autoencoding (He et al. 2021): hide most of a photo, let the encoder's output draw what was there.

The paper's ViTs see the visible patches alone, which only a transformer can. Here hidden patches are filled with one
learned colour instead (Xie et al. 2021), so that any image encoder can be trained, convolutions included.
Legend: I images, C channels, S crop side, P side of a patch, s the encoder's stride.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.segmenter import Segmenter


class MaskedAutoencoder(nn.Module):
    """A segmenter's image encoder with a linear head that draws stride x stride pixels from every cell."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.stride = segmenter.image_encoder.stride
        self.hidden_colour = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.head = nn.Conv2d(segmenter.image_encoder.embed_dim, 3 * self.stride**2, 1)

    def forward(self, pixels: Tensor, is_hidden: Tensor) -> tuple[Tensor, Tensor]:
        """pixels (I, 3, S, S) uint8, is_hidden (I, S, S) bool: the mean loss and the drawing (I, 3, S, S).

        The drawing is in units of each cell's own spread around its own mean, as is what it is compared with:
        normalised targets teach more than plain colours (He et al. 2021, table 1d).
        """
        normalised = self.segmenter.normalise(pixels)
        seen = torch.where(is_hidden[:, None], self.hidden_colour.to(normalised), normalised)
        embedding = self.segmenter.encode(seen.contiguous(memory_format=torch.channels_last)).embedding
        drawing = F.pixel_shuffle(self.head(embedding), self.stride)
        target, _, _ = normalise_cells(normalised, self.stride)
        error = (drawing.float() - target.float()).square().mean(dim=1)
        return error[is_hidden].mean(), drawing


def normalise_cells(pixels: Tensor, cell: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each cell x cell square less its mean and over its spread, with both, as (I, 3, S, S)."""
    mean = F.interpolate(F.avg_pool2d(pixels, cell), scale_factor=cell)
    variance = F.interpolate(F.avg_pool2d((pixels - mean).square(), cell), scale_factor=cell)
    spread = (variance + 1e-6).sqrt()
    return (pixels - mean) / spread, mean, spread


def draw_hidden(count: int, crop_size: int, patch: int, share: float, generator: torch.Generator) -> Tensor:
    """Random patches of `count` crops, the same number in each: (count, S, S) bool, True where hidden."""
    cells = crop_size // patch
    hidden = round(share * cells * cells)
    ranks = torch.rand(count, cells * cells, generator=generator).argsort(dim=1).argsort(dim=1)
    grid = (ranks < hidden).reshape(count, 1, cells, cells)
    return F.interpolate(grid.float(), scale_factor=patch)[:, 0].bool()


@torch.no_grad()
def picture(model: MaskedAutoencoder, pixels: Tensor, is_hidden: Tensor) -> Tensor:
    """What a person looks at: rows of (what was seen, what was drawn, the photo), (3 * I images, as one HxWx3 uint8).

    Cells keep their true mean and spread in the drawing, which the loss does not ask for.
    """
    segmenter = model.segmenter
    normalised = segmenter.normalise(pixels)
    _, drawing = model(pixels, is_hidden)
    _, mean, spread = normalise_cells(normalised, model.stride)
    drawn = torch.where(is_hidden[:, None], drawing * spread + mean, normalised)
    seen = torch.where(is_hidden[:, None], torch.zeros_like(normalised), normalised)
    rows = torch.cat([seen, drawn, normalised], dim=3) * segmenter.pixel_std + segmenter.pixel_mean
    return rows.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).flatten(0, 1).cpu()
