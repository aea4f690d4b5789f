"""The decoder with the inputs and outputs of `segment_anything`'s own ONNX export, for programs made for that.

Inputs: `image_embeddings` (1, C, h, w); `point_coords` (1, N, 2) in model pixels; `point_labels` (1, N) float32, -1 for
padding, 0 and 1 points, 2 and 3 box corners; `mask_input` (1, 1, 4h, 4w); `has_mask_input` (1,) float32;
`orig_im_size` (2,) float32, height and width. Outputs: `masks` (1, M, H, W) logits at that size; `iou_predictions`
(1, M); `low_res_masks` (1, M, 4h, 4w). M is 4, or 1 when the graph itself chooses.

Legend: N points, C channels, h w embedding cells, H W pixels of the original image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.errors import AnymaskError
from anymask.export.decoder import DecoderGraph
from anymask.export.graphs import Port, graph_facts, write_graph
from anymask.model.segmenter import Segmenter
from anymask.prompts import PointLabel

# From so many tokens on it is clear what is meant: a box, or a second point beside the padding (paper A).
UNAMBIGUOUS_TOKENS = 3


class ReferenceDecoderGraph(nn.Module):
    """The decoder between the reference's inputs and outputs."""

    def __init__(self, model: Segmenter, single_mask: bool) -> None:
        super().__init__()
        self.decoder = DecoderGraph(model)
        self.single_mask = single_mask
        self.longest_side = model.input_spec.longest_side

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        labels = point_labels.to(torch.int64)
        is_attended = attended_labels(labels)
        labels = torch.where(is_attended, labels, torch.full_like(labels, PointLabel.PADDING))
        logits, ious = self.decoder(image_embeddings, point_coords, labels, mask_input, has_mask_input)
        if self.single_mask:
            logits, ious = _choose(logits, ious, is_attended.sum(dim=1, keepdim=True) >= UNAMBIGUOUS_TOKENS)
        return self._to_original(logits, orig_im_size), ious, logits

    def _to_original(self, logits: Tensor, size_hw: Tensor) -> Tensor:
        """The reference's way: up to the model's square, padding off, to the image's size."""
        side = self.longest_side
        full = F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
        size = size_hw.to(torch.float32)
        height, width = torch.floor(size * (side / size.max()) + 0.5).to(torch.int64).unbind()
        wanted: Any = tuple(size_hw.to(torch.int64).unbind())
        return F.interpolate(full[..., :height, :width], size=wanted, mode="bilinear", align_corners=False)


def attended_labels(labels: Tensor) -> Tensor:
    """Which tokens (1, N) count: of the paddings only the first, and none beside a box, as the decoder was trained."""
    is_padding = labels == PointLabel.NOT_A_POINT
    has_box = (labels >= PointLabel.BOX_TOP_LEFT).any(dim=1, keepdim=True)
    is_first = is_padding.to(torch.int64).cumsum(dim=1) == 1
    return ~is_padding | (is_first & ~has_box)


def _choose(logits: Tensor, ious: Tensor, is_clear: Tensor) -> tuple[Tensor, Tensor]:
    """Output 0 where it is clear what is meant, else the most confident of the others: (1, 1, h, w), (1, 1)."""
    is_single = torch.arange(ious.shape[1], device=ious.device) == 0
    best = torch.where(is_single == is_clear, ious, torch.full_like(ious, -1e9)).argmax(dim=1)
    return logits.index_select(1, best), ious.index_select(1, best)


def export_reference_decoder(
    model: Segmenter, path: str | Path, single_mask: bool = False, half_weights: bool = False
) -> Path:
    """Write the reference's decoder; `single_mask` lets the graph choose the answer.

    Raises `AnymaskError` for a model with skip maps, for which that contract has no input, and when the file cannot
    be written.
    """
    if model.image_encoder.skip_channels:
        raise AnymaskError(
            f"the reference's decoder has one image input, and {model.name} needs its skip maps too; "
            "allowed are models without them, such as vit_b (or our own contract: decoder)"
        )
    cells = model.input_spec.longest_side // model.image_encoder.stride
    side = 4 * cells
    generator = torch.Generator().manual_seed(0)
    examples = [
        torch.randn(1, model.image_encoder.embed_dim, cells, cells, generator=generator),
        model.input_spec.longest_side * torch.rand(1, 5, 2, generator=generator),
        torch.tensor([[1.0, 0.0, 2.0, 3.0, -1.0]]),
        4 * torch.randn(1, 1, side, side, generator=generator),
        torch.tensor([1.0]),
        torch.tensor([150.0, 225.0]),
    ]
    inputs = [
        Port("image_embeddings", {}),
        Port("point_coords", {1: "num_points"}),
        Port("point_labels", {1: "num_points"}),
        Port("mask_input", {}),
        Port("has_mask_input", {}),
        Port("orig_im_size", {}),
    ]
    outputs = [Port("masks", {2: "height", 3: "width"}), Port("iou_predictions", {}), Port("low_res_masks", {})]
    facts = graph_facts(model, "reference-decoder")
    graph = ReferenceDecoderGraph(model, single_mask)
    return write_graph(graph, examples, inputs, outputs, path, facts, half_weights)
