"""Any anymask model as an object that the reference's classes accept, Meta's own package's too.

Those know one embedding tensor at one stride, and a prompt encoder that never sees the image. A model of ours may have
skip maps, look up image features under a click and draw prompts as maps. So the tensors that pass between the parts
carry a code instead: the image embedding its skip maps, folded to stride 16; the sparse embeddings each point's place
and label; the dense embedding the rough mask, folded. The decoder unfolds them and asks the model itself, so nothing of
the model is repeated here and nothing is remembered between calls.

The reference pads to a square, our `Predictor` as little as the model allows, and what an encoder makes of an image
depends on its padding. So the encoder leaves out what is padding alone, and the code is padded instead. Masks come
to the original size in one interpolation, as ours do. Both ways give the same answers, to rounding.

Legend: I images, B prompts, N points, C channels, S input side, h w embedding cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.compat.segment_anything.errors import ArgumentError
from anymask.compat.segment_anything.modeling.prompt_encoder import labelled_points
from anymask.compat.segment_anything.modeling.sam import Sam
from anymask.geometry.resize import interpolation_matrix
from anymask.model.image_encoder import ImageFeatures
from anymask.model.mask_decoder import NUM_MASK_OUTPUTS
from anymask.model.segmenter import PromptBatch, Segmenter, choose_outputs
from anymask.prompts import PointLabel

# Mask logits have four times the embedding's cells on each side, and one channel more says that there is a mask.
MASK_SCALE = 4
MASK_CHANNELS = MASK_SCALE**2 + 1


def as_reference(model: Segmenter | Sam) -> Sam:
    """`model` with the reference's surface, sharing its weights: train or move either and the other follows.

    `segment_anything.SamPredictor(as_reference(model))` works with this package's classes and with Meta's. The state
    dict is the model's own.
    """
    if isinstance(model, Sam):
        return model
    if not isinstance(model, Segmenter):
        raise ArgumentError(f"model is a {type(model).__name__}; allowed: what anymask.load_model gives, or a Sam")
    return ReferenceModel(model)


class ReferenceModel(Sam):
    """A `Segmenter` behind the reference's three parts."""

    def __init__(self, segmenter: Segmenter) -> None:
        spec = segmenter.input_spec
        multiple = spec.pad_multiple or 1
        side = -(-spec.longest_side // multiple) * multiple
        encoder = ImageCodeEncoder(segmenter, side)
        super().__init__(
            encoder,
            PromptCodeEncoder(segmenter, side, encoder.code_channels),
            CodeDecoder(segmenter, encoder),
            spec.pixel_mean,
            spec.pixel_std,
        )
        self.segmenter = segmenter
        self.to(segmenter.device)
        self.train(segmenter.training)

    def postprocess_masks(self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]) -> Tensor:
        """Mask logits (B, C, h, w) over the padded square at the original size (B, C, H, W), in one interpolation."""
        side = self.image_encoder.img_size
        rows, columns = (
            torch.from_numpy(interpolation_matrix(int(original), cells, used * cells / side)).to(masks)
            for original, cells, used in zip(original_size, masks.shape[-2:], input_size, strict=True)
        )
        return rows @ (masks @ columns.T)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.segmenter.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.segmenter.load_state_dict(state_dict, strict, assign)


class ImageCodeEncoder(nn.Module):
    """Pixels (I, 3, S, S) to one tensor (I, C', h, w): the embedding, then each skip map folded to its stride.

    Where the model takes images that are no squares, what is padding alone is left out and comes as zeros, and one
    channel more says with ones where there is something.
    """

    def __init__(self, segmenter: Segmenter, side: int) -> None:
        super().__init__()
        self.encoder: Any = segmenter.image_encoder
        self.img_size = side
        self.pad_multiple = segmenter.input_spec.pad_multiple
        self.skip_channels = tuple(self.encoder.skip_channels)
        folded = sum(channels * 4 ** (1 + level) for level, channels in enumerate(self.skip_channels))
        self.code_channels = self.encoder.embed_dim + folded + (self.pad_multiple is not None)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(next(self.encoder.parameters()).dtype)
        if self.pad_multiple is not None:
            if len(x) > 1:  # each has a padding of its own
                return torch.cat([self(image) for image in x.split(1)])
            x = without_padding(x, self.pad_multiple)
        features = self.encoder(x)
        folded = [F.pixel_unshuffle(skip, 2 ** (1 + level)) for level, skip in enumerate(features.skips)]
        code = torch.cat([features.embedding, *folded], dim=1)
        if self.pad_multiple is None:
            return code
        code = torch.cat([code, torch.ones_like(code[:, :1])], dim=1)
        cells = self.img_size // self.encoder.stride
        return F.pad(code, (0, cells - code.shape[3], 0, cells - code.shape[2]))

    def unfold(self, code: Tensor) -> ImageFeatures:
        """The image features that `forward` folded."""
        if self.pad_multiple is not None:
            is_used = code[0, -1] > 0.5
            for axis in (2, 3):
                # With a tensor as its end, so that a traced graph counts anew for each image.
                used = is_used.any(dim=3 - axis).sum().clamp(min=1)
                code = code.index_select(axis, torch.arange(used, device=code.device))  # type: ignore[call-overload]
            code = code[:, :-1]
        widths = [channels * 4 ** (1 + level) for level, channels in enumerate(self.skip_channels)]
        embedding, *folded = code.split([self.encoder.embed_dim, *widths], dim=1)
        skips = tuple(F.pixel_shuffle(skip, 2 ** (1 + level)) for level, skip in enumerate(folded))
        return ImageFeatures(embedding, skips)


def without_padding(x: Tensor, multiple: int) -> Tensor:
    """Pixels (1, 3, S, S) without the rows below and columns to the right that are zero, but for those that fill up a
    multiple. Nothing but padding is zero to the end of an image, in every channel.
    """
    is_filled = (x[0] != 0).any(dim=0)
    for axis in (2, 3):
        filled = is_filled.any(dim=3 - axis).nonzero()
        used = int(filled[-1]) + 1 if len(filled) else x.shape[axis]
        x = x.narrow(axis, 0, min(x.shape[axis], -(-used // multiple) * multiple))
    return x


class PromptCodeEncoder(nn.Module):
    """Prompts to a code: sparse (B, N, 3) x and y in [0, 1] and label, dense (B, 17, h, w) the folded rough mask.

    Built of the parts that the reference's ONNX model takes apart (`pe_layer`, `point_embeddings` and so on), each
    with constants that make its sums come out as the code.
    """

    def __init__(self, segmenter: Segmenter, side: int, code_channels: int) -> None:
        super().__init__()
        self.encoder = segmenter.prompt_encoder
        cells = side // segmenter.image_encoder.stride
        # The reference means the channels of the image embedding by this, its export script for one.
        self.embed_dim = code_channels
        self.image_embedding_size = (cells, cells)
        self.input_image_size = (side, side)
        self.mask_input_size = (MASK_SCALE * cells, MASK_SCALE * cells)
        self.pe_layer = PositionCode()
        labels = (
            PointLabel.BACKGROUND,
            PointLabel.FOREGROUND,
            PointLabel.BOX_TOP_LEFT,
            PointLabel.BOX_BOTTOM_RIGHT,
        )
        self.num_point_embeddings = len(labels)
        self.point_embeddings = nn.ModuleList(Constant([[0, 0, label]]) for label in labels)
        self.not_a_point_embed = Constant([[0, 0, PointLabel.NOT_A_POINT]])
        self.mask_downscaling = FoldMask()
        self.no_mask_embed = Constant([[0] * MASK_CHANNELS])

    def get_dense_pe(self) -> Tensor:
        """The encodings (1, C, h, w) of the image's cells; the decoder makes its own."""
        return self.encoder.pe_layer.grid(self.image_embedding_size)[None]

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The reference's prompts (see `modeling.PromptEncoder`); label -1 is padding, which changes no answer."""
        if points is not None:
            points = points[0], points[1].long().masked_fill(points[1] == -1, int(PointLabel.PADDING))
        points_xy, labels = labelled_points(points, boxes, masks)
        positions = (points_xy.float() + 0.5) / self.input_image_size[0]
        sparse = torch.cat([positions, labels[..., None].to(positions.dtype)], dim=-1)
        if masks is None:
            no_mask = self.no_mask_embed.weight[..., None, None]
            return sparse, no_mask.expand(len(labels), -1, *self.image_embedding_size)
        return sparse, self.mask_downscaling(masks)


class PositionCode(nn.Module):
    """A place in [0, 1] with room for its label: (..., 2) -> (..., 3)."""

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        return F.pad(coords, (0, 1))


class Constant(nn.Module):
    """A `weight` that is not learned and in no state dict."""

    weight: Tensor

    def __init__(self, rows: list[list[int]]) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(rows, dtype=torch.float), persistent=False)


class FoldMask(nn.Module):
    """Mask logits (B, 1, 4h, 4w) to (B, 17, h, w): ones, which say that there is a mask, and the logits folded."""

    def forward(self, masks: Tensor) -> Tensor:
        folded = F.pixel_unshuffle(masks, MASK_SCALE)
        return torch.cat([torch.ones_like(folded[:, :1]), folded], dim=1)


class CodeDecoder(nn.Module):
    """Unfolds what the other two folded and asks the model."""

    segmenter: Segmenter
    image_code: ImageCodeEncoder

    def __init__(self, segmenter: Segmenter, encoder: ImageCodeEncoder) -> None:
        super().__init__()
        self.decoder = segmenter.mask_decoder
        self.num_mask_tokens = NUM_MASK_OUTPUTS
        self.num_multimask_outputs = NUM_MASK_OUTPUTS - 1
        # Not as submodules: they are parts of the whole elsewhere.
        object.__setattr__(self, "segmenter", segmenter)
        object.__setattr__(self, "image_code", encoder)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (B, 3 or 1, 4h, 4w) and predicted IoU (B, 3 or 1)."""
        logits, ious = self.predict_masks(image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)
        return choose_outputs(logits, ious, multimask_output)

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        token_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Every output: mask logits (B, 4, 4h, 4w) and predicted IoU (B, 4). `image_pe` is not needed."""
        sparse, dense = sparse_prompt_embeddings, dense_prompt_embeddings
        if len(image_embeddings) > 1:  # each has a padding of its own
            dense, masks = dense.expand(len(sparse), -1, -1, -1), token_mask
            answers = [
                self.predict_masks(
                    image_embeddings[row : row + 1],
                    image_pe,
                    sparse[row : row + 1],
                    dense[row : row + 1],
                    None if masks is None else masks[row : row + 1],
                )
                for row in range(len(sparse))
            ]
            return torch.cat([logits for logits, _ in answers]), torch.cat([ious for _, ious in answers])
        points_xy = sparse[..., :2] * self.image_code.img_size - 0.5
        labels = sparse[..., 2].round().long()
        if token_mask is not None:
            labels = labels.masked_fill(~token_mask, int(PointLabel.PADDING))
        mask_logits, has_mask = None, None
        # A traced graph must take the mask at run time; otherwise no mask is no work.
        if torch.jit.is_tracing() or torch.compiler.is_compiling() or bool((dense[:, 0] != 0).any()):
            mask_logits = F.pixel_shuffle(dense[:, 1:], MASK_SCALE).expand(len(labels), -1, -1, -1)
            has_mask = (dense[:, 0, 0, 0] > 0.5).expand(len(labels))
        features = self.image_code.unfold(image_embeddings)
        if mask_logits is not None:
            height, width = (MASK_SCALE * side for side in features.embedding.shape[-2:])
            mask_logits = mask_logits[..., :height, :width]
        logits, ious = self.segmenter.decode(features, PromptBatch(points_xy, labels, mask_logits, has_mask))
        return repeat_edge(logits, MASK_SCALE * self.image_code.img_size // self.segmenter.image_encoder.stride), ious


def repeat_edge(logits: Tensor, side: int) -> Tensor:
    """Logits (B, M, h, w) in a square of `side` cells, the last row and column repeated."""
    for axis in (2, 3):
        cells = torch.arange(side, device=logits.device).clamp(max=logits.shape[axis] - 1)
        logits = logits.index_select(axis, cells)
    return logits
