"""The image encoder as a graph: pixels to the features of an image.

Input, one of two: `pixels` (I, 3, H, W) float32, normalised and padded as `Segmenter.preprocess` makes them; or `image`
(I, H', W', 3) uint8 RGB, resized to the model's longest side, which the graph normalises and pads itself.
Outputs: `embedding` (I, C, h, w) and, where the model has them, `skip_0` (I, C8, 2h, 2w), `skip_1` (I, C4, 4h, 4w).

Legend: I images, C channels, H W model pixels, h w embedding cells.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.export.graphs import Port, example_cells, feature_ports, graph_facts, write_graph
from anymask.export.vit import ViTGraph
from anymask.model.image_encoder import ViTEncoder
from anymask.model.segmenter import Segmenter

PIXEL_INPUTS = ("normalised", "uint8")


class EncoderGraph(nn.Module):
    """`Segmenter.encode` with a tuple of tensors as its answer."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        encoder = model.image_encoder
        self.image_encoder = ViTGraph(encoder, example_cells(model)) if isinstance(encoder, ViTEncoder) else encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features = self.image_encoder(pixels)
        return (features,) if isinstance(features, Tensor) else (features.embedding, *features.skips)


class ImageGraph(nn.Module):
    """Resized uint8 pictures to normalised, padded pixels, as `Segmenter.preprocess` does after resizing."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", model.pixel_mean.float(), persistent=False)
        self.register_buffer("pixel_std", model.pixel_std.float(), persistent=False)
        self.longest_side = model.input_spec.longest_side
        self.pad_multiple = model.input_spec.pad_multiple

    def forward(self, image: Tensor) -> Tensor:
        pixels = (image.permute(0, 3, 1, 2).float() - self.pixel_mean) / self.pixel_std
        height, width = pixels.shape[-2:]
        if self.pad_multiple is None:
            below, right = self.longest_side - height, self.longest_side - width
        else:
            below, right = -height % self.pad_multiple, -width % self.pad_multiple
        return F.pad(pixels, (0, right, 0, below))


def pixel_port(model: Segmenter, pixels: str) -> Port:
    """The encoder's input."""
    if pixels == "uint8":
        return Port("image", {0: "images", 1: "height", 2: "width"})
    is_square = model.input_spec.pad_multiple is None
    return Port("pixels", {0: "images"} if is_square else {0: "images", 2: "height", 3: "width"})


def example_pixels(model: Segmenter, pixels: str, num_images: int = 1) -> Tensor:
    """Made-up pixels of images that do not fill the frame."""
    generator = torch.Generator().manual_seed(0)
    if pixels == "uint8":
        side = model.input_spec.longest_side
        return torch.randint(0, 256, (num_images, side * 5 // 8, side, 3), generator=generator, dtype=torch.uint8)
    height, width = (cells * model.image_encoder.stride for cells in example_cells(model))
    return torch.randn(num_images, 3, height, width, generator=generator)


def encoder_module(model: Segmenter, pixels: str) -> nn.Module:
    """The encoder for one kind of input."""
    encoder = EncoderGraph(model)
    return encoder if pixels == "normalised" else nn.Sequential(ImageGraph(model), encoder)


def export_encoder(model: Segmenter, path: str | Path, pixels: str = "normalised", half_weights: bool = False) -> Path:
    """Write the encoder of any model; `pixels` is "normalised" or "uint8" (see above).

    `half_weights` stores weights as float16. Raises `AnymaskError` when the file cannot be written.
    """
    inputs, outputs = [pixel_port(model, pixels)], feature_ports(model)
    facts = graph_facts(model, "encoder") | {"pixels": pixels}
    examples = [example_pixels(model, pixels)]
    return write_graph(encoder_module(model, pixels), examples, inputs, outputs, path, facts, half_weights)
