"""The decoder as a graph: prompts of one image to masks, batched and ragged (our own contract).

Inputs: `embedding` (1, C, h, w) and, where the model has them, `skip_0` (1, C8, 2h, 2w), `skip_1` (1, C4, 4h, 4w);
`points_xy` (B, N, 2) float32 in model pixels; `labels` (B, N) int32 of `PointLabel` (-2 pads a ragged batch);
`mask_input` (B, 1, 4h, 4w) float32 logits and `has_mask` (B,) float32, 1 where a row of them counts.
Outputs: `logits` (B, M, 4h, 4w) over the padded frame, `ious` (B, M); output 0 is the single one.

Many prompts of one image are answered more quickly by two graphs, `export_decoder_parts`: the first takes the features
and gives what is worked out from them alone, whatever that is; the second takes that and the prompts.

Legend: B prompts, N points, C channels, M mask outputs, h w embedding cells.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.export.graphs import (
    Port,
    example_cells,
    example_features,
    example_prompts,
    feature_ports,
    finish_graph,
    graph_facts,
    trace_graph,
)
from anymask.export.reshapes import settle_reshapes
from anymask.export.split import split_graph
from anymask.model.image_encoder import ImageFeatures
from anymask.model.prompt_encoder import PromptEncoder, draw_prompt_maps, normalise_positions
from anymask.model.segmenter import Segmenter
from anymask.prompts import PointLabel
from anymask.runtime.onnx import PREPARATION_FILE, PROMPTS_FILE

if TYPE_CHECKING:
    import onnx

PROMPT_PORTS = (
    Port("points_xy", {0: "prompts", 1: "points"}),
    Port("labels", {0: "prompts", 1: "points"}),
    Port("mask_input", {0: "prompts", 2: "logits_high", 3: "logits_wide"}),
    Port("has_mask", {0: "prompts"}),
)
OUTPUT_PORTS = (Port("logits", {0: "prompts", 2: "logits_high", 3: "logits_wide"}), Port("ious", {0: "prompts"}))


class DecoderGraph(nn.Module):
    """`Segmenter.decode` for one image in a form that traces: no Python number depends on an input's shape.

    Grids are made at the model's full size and cut to the embedding's, so that the runtime computes their encodings
    once, when it loads the graph. With `knows_image` what prompts have in common is worked out from the image before
    they come: more work for one prompt, less for each of many, and for `split.py` to cut out.
    """

    def __init__(self, model: Segmenter, knows_image: bool = False) -> None:
        super().__init__()
        self.knows_image = knows_image
        self.prompt_encoder: PromptEncoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder
        self.stride = model.image_encoder.stride
        side = model.input_spec.longest_side
        self.input_size = max(model.frame((side, side)).padded_hw)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        embedding, *skips, points_xy, labels, mask_input, has_mask = inputs
        features = ImageFeatures(embedding, tuple(skips))
        height, width = embedding.shape[-2:]
        encoder = self.prompt_encoder
        labels = labels.to(torch.int64)
        click_features = None
        if encoder.click_features is not None:
            click_features = self._click_features(features, points_xy)
        tokens = encoder.encode_points(normalise_positions(points_xy, self.input_size), labels, click_features)
        prompt_maps = None
        if encoder.has_prompt_maps:
            prompt_maps = draw_prompt_maps(points_xy, labels, (4 * height, 4 * width), self.stride / 4)
        dense = encoder.encode_masks(mask_input, has_mask > 0.5, prompt_maps)
        cells = self.input_size // self.stride
        image_pe = encoder.pe_layer.grid((cells, cells))[:, :height, :width]
        if self.knows_image:
            features = self.mask_decoder.prepare(features, encoder.base_prompt(), image_pe)
        return self.mask_decoder(features, image_pe, tokens, dense, labels != PointLabel.PADDING)

    def _click_features(self, features: ImageFeatures, points_xy: Tensor) -> Tensor:
        """`ClickFeatures` by the standard's own sampling operator: (B, N, C)."""
        assert self.prompt_encoder.click_features is not None
        height, width = features.embedding.shape[-2:]
        x, y = points_xy.unbind(-1)
        # The operator's places run from -1 to 1 over the map, edge to edge.
        grid_xy = torch.stack(
            [2 * (x + 0.5) / (width * self.stride) - 1, 2 * (y + 0.5) / (height * self.stride) - 1], dim=-1
        )
        total: Tensor | None = None
        maps = (features.embedding, *features.skips)
        for projection, feature_map in zip(self.prompt_encoder.click_features.projections, maps, strict=True):
            sampled = F.grid_sample(feature_map, grid_xy[None], padding_mode="border", align_corners=False)
            projected = projection(sampled[0].permute(1, 2, 0))
            total = projected if total is None else total + projected
        assert total is not None
        return total


def export_decoder(model: Segmenter, path: str | Path, half_weights: bool = False) -> Path:
    """Write the decoder of any model (see above); `half_weights` stores weights as float16.

    Raises `AnymaskError` when the file cannot be written.
    """
    path = Path(path)
    finish_graph(_trace(DecoderGraph(model), model, path), path, graph_facts(model, "decoder"), half_weights)
    return path


def export_decoder_parts(model: Segmenter, folder: str | Path, half_weights: bool = False) -> tuple[Path, Path]:
    """Write the decoder as two graphs, `preparation.onnx` and `prompts.onnx`; the second's further inputs have the
    names of the first's outputs, and where both take a feature map it has one name.

    Raises `AnymaskError` when a file cannot be written.
    """
    paths = (Path(folder) / PREPARATION_FILE, Path(folder) / PROMPTS_FILE)
    graph = _trace(DecoderGraph(model, knows_image=True), model, paths[0])
    parts = split_graph(graph, [port.name for port in feature_ports(model, None)])
    for path, part in zip(paths, parts, strict=True):
        finish_graph(part, path, graph_facts(model, path.stem), half_weights)
    return paths


def _trace(decoder: DecoderGraph, model: Segmenter, path: Path) -> onnx.ModelProto:
    inputs = [*feature_ports(model, None), *PROMPT_PORTS]
    examples = [*example_features(model), *example_prompts(model)]
    graph = trace_graph(decoder, examples, inputs, OUTPUT_PORTS, path)
    settle_reshapes(graph, [dict(zip((port.name for port in inputs), one, strict=True)) for one in _sized(model)])
    return graph


def _sized(model: Segmenter) -> list[list[np.ndarray]]:
    """Inputs of several sizes: prompts, points of each and, where a model need not be square, cells."""
    random = np.random.default_rng(0)
    sized = []
    for batch, points, *cells_hw in ((2, 3, 5, 7), (3, 2, 7, 4), (5, 4, 3, 11), (1, 7, 4, 9)):
        height, width = example_cells(model) if model.input_spec.pad_multiple is None else cells_hw
        features = [
            random.standard_normal((1, channels, height << level, width << level), np.float32)
            for level, channels in enumerate((model.image_encoder.embed_dim, *model.image_encoder.skip_channels))
        ]
        points_xy = random.random((batch, points, 2), np.float32) * np.float32(model.image_encoder.stride)
        masks = random.standard_normal((batch, 1, 4 * height, 4 * width), np.float32)
        labels = np.ones((batch, points), np.int32)
        sized.append([*features, points_xy, labels, masks, np.ones(batch, np.float32)])
    return sized
