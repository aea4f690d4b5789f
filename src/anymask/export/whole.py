"""Encoder and decoder in one graph: one image and its prompts to masks.

The encoder's input (see `encoder.py`, one image) and the decoder's prompts (see `decoder.py`) in, the decoder's
outputs out. The image is encoded at every run: for several rounds of prompts two graphs are quicker.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from anymask.export.decoder import OUTPUT_PORTS, PROMPT_PORTS, DecoderGraph
from anymask.export.encoder import encoder_module, example_pixels, pixel_port
from anymask.export.graphs import Port, example_prompts, graph_facts, write_graph
from anymask.model.segmenter import Segmenter


class WholeGraph(nn.Module):
    """`Segmenter.encode`, then `Segmenter.decode`."""

    def __init__(self, model: Segmenter, pixels: str) -> None:
        super().__init__()
        self.encoder = encoder_module(model, pixels)
        self.decoder = DecoderGraph(model)

    def forward(
        self, pixels: Tensor, points_xy: Tensor, labels: Tensor, mask_input: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.decoder(*self.encoder(pixels), points_xy, labels, mask_input, has_mask)


def export_whole(model: Segmenter, path: str | Path, pixels: str = "uint8", half_weights: bool = False) -> Path:
    """Write encoder and decoder as one graph. Raises `AnymaskError` when the file cannot be written."""
    port = pixel_port(model, pixels)
    one_image = Port(port.name, {axis: name for axis, name in port.dynamic_axes.items() if axis != 0})
    prompts = example_prompts(model)
    example = example_pixels(model, pixels)
    if pixels == "uint8" and model.input_spec.pad_multiple is not None:
        # The example's frame, and with it its masks, is as large as the picture needs.
        height, width = (
            4 * side // model.image_encoder.stride
            for side in model.frame((example.shape[1], example.shape[2])).padded_hw
        )
        prompts[2] = torch.zeros(3, 1, height, width)
    facts = graph_facts(model, "whole") | {"pixels": pixels}
    inputs = [one_image, *PROMPT_PORTS]
    return write_graph(WholeGraph(model, pixels), [example, *prompts], inputs, OUTPUT_PORTS, path, facts, half_weights)
