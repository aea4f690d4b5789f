"""The whole network as the reference builds and calls it.

Legend: B prompts of one image, N points, C mask outputs, H W original pixels, h w cells of the low-resolution masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PADDING_LABEL = -1


class Sam(nn.Module):
    """Image encoder, prompt encoder and mask decoder, with what lies before and after them."""

    mask_threshold: float = 0.0
    image_format: str = "RGB"
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: nn.Module,
        mask_decoder: nn.Module,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        self.image_encoder: Any = image_encoder
        self.prompt_encoder: Any = prompt_encoder
        self.mask_decoder: Any = mask_decoder
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean, dtype=torch.float).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std, dtype=torch.float).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @torch.no_grad()
    def forward(self, batched_input: list[dict[str, Any]], multimask_output: bool) -> list[dict[str, Tensor]]:
        """The masks of several images, each with its own prompts.

        Each input: `image` (3, h, w) already resized to the model's frame; `original_size` (H, W); and any of
        `point_coords` (B, N, 2) with `point_labels` (B, N), `boxes` (B, 4), both in the model's frame, and
        `mask_inputs` (B, 1, h, w). Each output: `masks` (B, C, H, W) bool, `iou_predictions` (B, C) and
        `low_res_logits` (B, C, h, w), which can be given back as `mask_inputs`.
        """
        embeddings = self.image_encoder(torch.stack([self.preprocess(record["image"]) for record in batched_input]))
        outputs = []
        for record, embedding in zip(batched_input, embeddings, strict=True):
            points = (record["point_coords"], record["point_labels"]) if "point_coords" in record else None
            logits, ious = decode_prompts(
                self, embedding[None], points, record.get("boxes"), record.get("mask_inputs"), multimask_output
            )
            full_logits = self.postprocess_masks(logits, record["image"].shape[-2:], record["original_size"])
            masks = full_logits > self.mask_threshold
            outputs.append({"masks": masks, "iou_predictions": ious, "low_res_logits": logits})
        return outputs

    def preprocess(self, x: Tensor) -> Tensor:
        """Pixels (..., 3, h, w) on 0 to 255, normalised and then padded with zeros to the model's square."""
        height, width = x.shape[-2:]
        side = self.image_encoder.img_size
        return F.pad((x - self.pixel_mean) / self.pixel_std, (0, side - width, 0, side - height))

    def postprocess_masks(self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]) -> Tensor:
        """Mask logits (B, C, h, w) over the padded square at the original size (B, C, H, W).

        `input_size` is the image's height and width in the model's frame, without the padding. Two interpolations,
        for the numbers of one straight to the original size would differ.
        """
        side = self.image_encoder.img_size
        height, width = input_size
        in_frame = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)[..., :height, :width]
        return F.interpolate(in_frame, tuple(original_size), mode="bilinear", align_corners=False)


def decode_prompts(
    model: Any,
    image_embeddings: Tensor,
    points: tuple[Tensor, Tensor] | None,
    boxes: Tensor | None,
    masks: Tensor | None,
    multimask_output: bool,
) -> tuple[Tensor, Tensor]:
    """Low-resolution logits (B, C, h, w) and IoU (B, C) of B prompts on one image, padding taken away first.

    Rows of a ragged batch, padded with label -1, are decoded together with those of equal length: each object gets
    exactly what it would get alone, from any decoder with the reference's signature.
    """
    if points is None or not (points[1] == PADDING_LABEL).any():
        return _decode(model, image_embeddings, points, boxes, masks, multimask_output)
    points_xy, labels = points
    is_padding = labels == PADDING_LABEL
    lengths = (~is_padding).sum(dim=1)
    points_first = is_padding.int().argsort(dim=1, stable=True)
    logits: Tensor | None = None
    ious: Tensor | None = None
    for length in lengths.unique().tolist():
        rows = torch.nonzero(lengths == length)[:, 0]
        kept = points_first[rows, :length]
        own_points = points_xy[rows[:, None], kept], labels[rows[:, None], kept]
        has_other = boxes is not None or masks is not None
        part_logits, part_ious = _decode(
            model,
            image_embeddings,
            None if length == 0 and has_other else own_points,
            None if boxes is None else boxes[rows],
            masks if masks is None or len(masks) == 1 else masks[rows],
            multimask_output,
        )
        if logits is None or ious is None:
            logits = part_logits.new_empty(len(labels), *part_logits.shape[1:])
            ious = part_ious.new_empty(len(labels), *part_ious.shape[1:])
        logits[rows], ious[rows] = part_logits, part_ious
    assert logits is not None
    assert ious is not None
    return logits, ious


def _decode(
    model: Any,
    image_embeddings: Tensor,
    points: tuple[Tensor, Tensor] | None,
    boxes: Tensor | None,
    masks: Tensor | None,
    multimask_output: bool,
) -> tuple[Tensor, Tensor]:
    sparse, dense = model.prompt_encoder(points=points, boxes=boxes, masks=masks)
    return model.mask_decoder(
        image_embeddings=image_embeddings,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask_output,
    )
