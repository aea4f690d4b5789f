"""The whole network: image encoder, prompt encoder, mask decoder (paper 3).

Legend: I images, B prompts, N points, C channels, M mask outputs, H W model pixels, h w embedding cells.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from anymask.geometry.resize import Frame, fit_frame, resize_image
from anymask.model.image_encoder import ImageEncoder, ImageFeatures
from anymask.model.layers import is_inference, is_plain_inference
from anymask.model.mask_decoder import MaskDecoder
from anymask.model.prepared_features import PreparedFeatures
from anymask.model.prompt_encoder import PromptEncoder, draw_prompt_maps, normalise_positions
from anymask.prompts import PointLabel

# Numbers of image embedding that prompts are decoded for at once on a CPU, to stay in its cache ("measured").
NUMBERS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class InputSpec:
    """How a model wants its pixels: longest side, padding and the per-channel mean and spread on 0 to 255."""

    longest_side: int
    pad_multiple: int | None  # None pads to a square, as the paper's ViT needs
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]


@dataclass(frozen=True)
class PromptBatch:
    """B prompts as tensors. Points are model pixels, right-padded with label PADDING.

    points_xy (B, N, 2) float; labels (B, N) int of `PointLabel`; mask_logits (B, 1, 4h, 4w) or None; has_mask (B,)
    bool or None (all, when there are mask_logits); image_index (B,) int or None (see `MaskDecoder.forward`).
    """

    points_xy: Tensor
    labels: Tensor
    mask_logits: Tensor | None = None
    has_mask: Tensor | None = None
    image_index: Tensor | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, rows: slice) -> PromptBatch:
        parts = (self.points_xy, self.labels, self.mask_logits, self.has_mask, self.image_index)
        return PromptBatch(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]


@dataclass(frozen=True)
class GeneratorDefaults:
    """Which masks automatic generation keeps when it is not told: a model's own scale, kept with its weights.

    The numbers here are the paper's, for its own models (section B).
    """

    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    box_nms_thresh: float = 0.7


class Segmenter(nn.Module):
    """A promptable segmentation model. `encode` once per image, `decode` once per batch of prompts."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        name: str,
        image_encoder: ImageEncoder,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        input_spec: InputSpec,
    ) -> None:
        super().__init__()
        assert isinstance(image_encoder, nn.Module)
        self.name = name
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.input_spec = input_spec
        self.generator_defaults = GeneratorDefaults()
        self.register_buffer("pixel_mean", torch.tensor(input_spec.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(input_spec.pixel_std).view(3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pixel_mean.dtype

    def frame(self, size_hw: tuple[int, int]) -> Frame:
        """Where an image of this size comes to lie in the model's input."""
        return fit_frame(size_hw, self.input_spec.longest_side, self.input_spec.pad_multiple)

    def preprocess(self, image_hwc: np.ndarray) -> tuple[Tensor, Frame]:
        """An HxWx3 uint8 RGB image as (1, 3, H, W) normalised model pixels, and its frame.

        Padding comes after normalisation, so it is zero, as in the paper.
        """
        frame = self.frame((image_hwc.shape[0], image_hwc.shape[1]))
        resized = torch.from_numpy(np.ascontiguousarray(resize_image(image_hwc, frame.resized_hw)))
        pixels = self.normalise(resized.to(self.device).permute(2, 0, 1)[None])
        padded = pixels.new_zeros(1, 3, *frame.padded_hw)
        padded[:, :, : frame.resized_hw[0], : frame.resized_hw[1]] = pixels
        return padded, frame

    def normalise(self, pixels: Tensor) -> Tensor:
        """0 to 255 pixels (I, 3, H, W) of any type to the model's own scale and dtype."""
        return (pixels.to(self.dtype) - self.pixel_mean) / self.pixel_std

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Normalised, padded pixels (I, 3, H, W) to image features."""
        return self.image_encoder(pixels)

    def prepare(self, features: ImageFeatures) -> ImageFeatures:
        """Features that `decode` answers more quickly from, worth it for more than one call; without gradients."""
        return self.mask_decoder.prepare(features, self.prompt_encoder.base_prompt(), self._image_pe(features))

    def decode(
        self,
        features: ImageFeatures,
        prompts: PromptBatch,
        iou_thresh: float | None = None,
        outputs: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (B, M, 4h, 4w) over the padded frame and predicted IoU (B, M); output 0 is the single one.

        `iou_thresh`: logits of the promising prompts alone, see `MaskDecoder.forward`; `outputs`: of some outputs
        alone. On a CPU and without gradients the work goes in batches whose maps stay in its cache, however many
        prompts there are.
        """
        num_parts = -(-len(prompts) // self._prompts_at_once(features))
        if num_parts <= 1:
            return self._decode(features, prompts, iou_thresh, outputs)
        if features.embedding.shape[0] > 1 and prompts.image_index is None:
            prompts = replace(prompts, image_index=torch.arange(len(prompts), device=self.device))
        ends = [len(prompts) * part // num_parts for part in range(num_parts + 1)]  # alike, none with a last one alone
        parts = [self._decode(features, prompts[start:end], iou_thresh, outputs) for start, end in pairwise(ends)]
        logits, ious = zip(*parts, strict=True)
        return torch.cat(logits), torch.cat(ious)

    def _prompts_at_once(self, features: ImageFeatures) -> int:
        if self.device.type != "cpu" or not is_inference(self) or torch.jit.is_tracing():
            return sys.maxsize
        numbers = features.embedding[0].numel()
        if isinstance(features, PreparedFeatures) and features.is_whole:
            numbers //= 4  # a prompt has a few rows and no map ("measured" with ViT-B: 20.0 instead of 24.3 ms each)
        return max(1, NUMBERS_AT_ONCE // numbers)

    def _image_pe(self, features: ImageFeatures) -> Tensor:
        """The encodings of the embedding's cells, (C, h, w)."""
        height, width = features.embedding.shape[-2:]
        size = max(height, width)
        return self.prompt_encoder.pe_layer.grid((height, width), (height / size, width / size)).to(
            features.embedding.dtype
        )

    def _decode(
        self, features: ImageFeatures, prompts: PromptBatch, iou_thresh: float | None, outputs: slice
    ) -> tuple[Tensor, Tensor]:
        cells_hw = features.embedding.shape[-2:]
        input_hw = tuple(cells * self.image_encoder.stride for cells in cells_hw)
        input_size = max(input_hw)
        positions = normalise_positions(prompts.points_xy, input_size)
        click_features = None
        if self.prompt_encoder.click_features is not None:
            click_features = self._click_features(features, prompts, input_hw)
        tokens = self.prompt_encoder.encode_points(positions, prompts.labels, click_features)
        mask_logits = None if prompts.mask_logits is None else prompts.mask_logits.to(self.dtype)
        prompt_maps = None
        if self.prompt_encoder.has_prompt_maps:
            map_hw = (4 * cells_hw[0], 4 * cells_hw[1])
            prompt_maps = draw_prompt_maps(prompts.points_xy, prompts.labels, map_hw, self.image_encoder.stride / 4)
            prompt_maps = prompt_maps.to(self.dtype)
        dense = self.prompt_encoder.encode_masks(mask_logits, prompts.has_mask, prompt_maps)
        token_mask: Tensor | None = prompts.labels != PointLabel.PADDING
        if is_plain_inference(positions) and token_mask.all():  # type: ignore[union-attr]
            token_mask = None
        return self.mask_decoder(
            features,
            self._image_pe(features),
            tokens.to(features.embedding.dtype),
            dense,
            token_mask,
            prompts.image_index,
            iou_thresh,
            outputs,
        )

    def _click_features(self, features: ImageFeatures, prompts: PromptBatch, input_hw: tuple[int, ...]) -> Tensor:
        assert self.prompt_encoder.click_features is not None
        size_xy = prompts.points_xy.new_tensor([input_hw[1], input_hw[0]])
        image_index = prompts.image_index
        if image_index is None:
            # One image for all, or one each.
            image_index = torch.arange(prompts.labels.shape[0], device=prompts.labels.device)
            image_index = image_index.clamp(max=features.embedding.shape[0] - 1)
        return self.prompt_encoder.click_features(
            (features.embedding, *features.skips), (prompts.points_xy + 0.5) / size_xy, image_index
        )


def choose_outputs(logits: Tensor, ious: Tensor, multimask: bool) -> tuple[Tensor, Tensor]:
    """The three ambiguous outputs, or the single one (paper A): logits (B, 3 or 1, h, w), IoU (B, 3 or 1)."""
    outputs = slice(1, None) if multimask else slice(0, 1)
    return logits[:, outputs], ious[:, outputs]
