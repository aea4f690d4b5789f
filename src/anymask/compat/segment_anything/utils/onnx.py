"""The decoder as one graph, from an image embedding and labelled points to masks of the image's size.

Made to be traced: no Python decision depends on a tensor's values. Scripts written for the reference call
`torch.onnx.export` with `dynamic_axes` and no word of which exporter, which since torch 2.9 means one that cannot take
them so. For this model alone, importing this module makes the tracing exporter the default again.

Legend: N points, M masks, H W original pixels, h w cells of the low-resolution masks.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.compat.segment_anything.utils.amg import calculate_stability_score
from anymask.prompts import PointLabel

# From this many attended tokens on a prompt counts as unambiguous: two points and "not a point", or a point and a box.
UNAMBIGUOUS_TOKENS = 3


def trace_by_default() -> None:
    """Let `torch.onnx.export` of a `SamOnnxModel` that does not say `dynamo` trace it; others are exported as ever."""
    export = torch.onnx.export
    if hasattr(export, "traces_sam_onnx_model") or "dynamo" not in inspect.signature(export).parameters:
        return

    @functools.wraps(export)
    def export_traced(model: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(model, SamOnnxModel):
            kwargs.setdefault("dynamo", False)
        return export(model, *args, **kwargs)

    export_traced.traces_sam_onnx_model = True  # type: ignore[attr-defined]
    torch.onnx.export = export_traced


class SamOnnxModel(nn.Module):
    """What `torch.onnx.export` is given: prompt encoder, mask decoder and the upsampling of one model.

    Labels: 1 and 0 points, 2 and 3 a box's corners, -1 padding. The first -1 of a prompt without a box is "not a
    point", which the model knows; any further one is kept out of the attention and changes nothing.
    """

    def __init__(
        self,
        model: Any,
        return_single_mask: bool,
        use_stability_score: bool = False,
        return_extra_metrics: bool = False,
    ) -> None:
        """`return_single_mask` chooses one of the M outputs; `use_stability_score` gives stability as the score;
        `return_extra_metrics` adds stability and area of the full-size masks."""
        super().__init__()
        self.training = model.training  # the exporter puts every part into this mode when it is done
        self.model = model
        self.mask_decoder = model.mask_decoder
        self.img_size = model.image_encoder.img_size
        self.return_single_mask = return_single_mask
        self.use_stability_score = use_stability_score
        self.stability_score_offset = 1.0
        self.return_extra_metrics = return_extra_metrics
        # Ours takes a mask of the tokens; a decoder written for the reference may not.
        self._masks_tokens = "token_mask" in inspect.signature(self.mask_decoder.predict_masks).parameters

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """Masks (1, M, H, W) as logits, scores (1, M) and low-resolution masks (1, M, h, w).

        image_embeddings (1, C, ., .); point_coords (1, N, 2) in the model's frame; point_labels (1, N); mask_input
        (1, 1, h, w), counted only where has_mask_input (1,) is 1; orig_im_size (2,) height, width. With extra metrics:
        masks, scores, stability (1, M), areas (1, M), low-resolution masks.
        """
        is_attended = _attended(point_labels)
        masks, scores = self.mask_decoder.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self._embed_points(point_coords, point_labels),
            dense_prompt_embeddings=self._embed_masks(mask_input, has_mask_input),
            **({"token_mask": is_attended} if self._masks_tokens else {}),
        )
        if self.use_stability_score:
            scores = calculate_stability_score(masks, self.model.mask_threshold, self.stability_score_offset)
        if self.return_single_mask:
            masks, scores = self.select_masks(masks, scores, is_attended.sum(dim=1, keepdim=True))
        full_masks = self.mask_postprocessing(masks, orig_im_size)
        if not self.return_extra_metrics:
            return full_masks, scores, masks
        threshold = self.model.mask_threshold
        stability = calculate_stability_score(full_masks, threshold, self.stability_score_offset)
        areas = (full_masks > threshold).sum(-1).sum(-1)
        return full_masks, scores, stability, areas, masks

    def _embed_points(self, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        encoder = self.model.prompt_encoder
        encodings = encoder.pe_layer._pe_encoding((point_coords + 0.5) / self.img_size)
        labels = point_labels.to(torch.int64)
        kinds = torch.cat([encoder.not_a_point_embed.weight, *(kind.weight for kind in encoder.point_embeddings)])
        return encodings * (labels >= 0)[..., None] + kinds[labels + 1]

    def _embed_masks(self, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
        encoder = self.model.prompt_encoder
        no_mask = encoder.no_mask_embed.weight[..., None, None]
        return has_mask_input * encoder.mask_downscaling(mask_input) + (1 - has_mask_input) * no_mask

    @staticmethod
    def resize_longest_image_size(input_image_size: Tensor, longest_side: int) -> Tensor:
        """`ResizeLongestSide.get_preprocess_shape` on a tensor (2,) height, width."""
        size = input_image_size.to(torch.float32)
        return torch.floor(size * (longest_side / size.max()) + 0.5).to(torch.int64)

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """`Sam.postprocess_masks` for a size that is known only when the graph runs."""
        masks = F.interpolate(masks, size=(self.img_size, self.img_size), mode="bilinear", align_corners=False)
        height, width = self.resize_longest_image_size(orig_im_size, self.img_size).unbind()
        masks = masks[..., :height, :width]
        original_height, original_width = orig_im_size.to(torch.int64).unbind()
        size: Any = (original_height, original_width)
        return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)

    def select_masks(self, masks: Tensor, iou_preds: Tensor, num_points: Tensor | int) -> tuple[Tensor, Tensor]:
        """The single output where `num_points` (an int or (B, 1)) says that it is clear what is meant, else the best
        of the ambiguous ones: masks (B, 1, h, w), scores (B, 1)."""
        is_single = torch.arange(iou_preds.shape[1], device=iou_preds.device) == 0
        is_clear = torch.as_tensor(num_points, device=iou_preds.device) >= UNAMBIGUOUS_TOKENS
        best = torch.where(is_single == is_clear, iou_preds, -torch.inf).argmax(dim=1, keepdim=True)
        chosen = best[..., None, None].expand(-1, -1, *masks.shape[2:])
        return masks.gather(1, chosen), iou_preds.gather(1, best)


def _attended(point_labels: Tensor) -> Tensor:
    """Which tokens (B, N) may be attended to."""
    is_padding = point_labels == PointLabel.NOT_A_POINT
    has_box = (point_labels >= PointLabel.BOX_TOP_LEFT).any(dim=1, keepdim=True)
    is_first = is_padding.to(torch.int64).cumsum(dim=1) == 1
    return ~is_padding | (is_first & ~has_box)


trace_by_default()
