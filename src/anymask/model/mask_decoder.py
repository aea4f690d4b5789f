"""From image features and prompt tokens to masks (paper 3 and A).

Legend: I images, B prompts, N tokens, C channels, h w embedding cells, M mask outputs (1 single + 3 ambiguous).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from anymask.model.image_encoder import ImageFeatures
from anymask.model.known_image import FactoredMap
from anymask.model.layers import MLP, StackedMLPs
from anymask.model.prepared_features import KnownStride8, PreparedFeatures
from anymask.model.prompt_encoder import DensePrompt
from anymask.model.second_look import FARTHEST, SecondLook
from anymask.model.transformer import TwoWayTransformer
from anymask.model.upscaling import Upscaling, of_prompts

NUM_MASK_OUTPUTS = 4  # paper A: one for unambiguous prompts, three for whole, part and subpart


class MaskDecoder(nn.Module):
    """Two-way transformer, 4x upscaling and one small MLP per mask output; an IoU head beside them.

    Not in the paper: where the image encoder gives skip maps they are added in the upscaling, whose `activation` need
    not be GELU; with a `consensus` answers draw on all outputs, see `_agreed`; with a second look predicted IoU depends
    on the masks too, see `SecondLook`.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        transformer: TwoWayTransformer,
        head_dim: int = 256,
        consensus: float | None = None,
        has_second_look: bool = False,
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, embed_dim)
        self.mask_tokens = nn.Embedding(NUM_MASK_OUTPUTS, embed_dim)
        self.output_upscaling = Upscaling(embed_dim, activation)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(embed_dim, embed_dim, embed_dim // 8, 3) for _ in range(NUM_MASK_OUTPUTS)
        )
        self.iou_prediction_head = MLP(embed_dim, head_dim, NUM_MASK_OUTPUTS, 3)
        self.second_look = SecondLook(embed_dim, NUM_MASK_OUTPUTS) if has_second_look else None
        self.consensus = consensus

    def forward(
        self,
        features: ImageFeatures,
        image_pe: Tensor,
        prompt_tokens: Tensor,
        dense_prompt: DensePrompt,
        token_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        iou_thresh: float | None = None,
        outputs: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """All M masks of B prompts, or those of some `outputs`.

        features of I images; image_pe (C, h, w); prompt_tokens (B, N, C); token_mask (B, N), False at padding;
        image_index (B,) says which image each prompt belongs to (None: one image for all, or one each).
        Returns mask logits (B, M, 4h, 4w) and predicted IoU (B, M).

        With `iou_thresh` only those S prompts get masks, in their order, of which an ambiguous output is predicted to
        reach it: logits (S, M, 4h, 4w). Drawing is a quarter of the work ("measured" on tiny), and automatic
        generation drops most of it. Prompts out of a second look's reach keep their first guess, below it.
        """
        batch = prompt_tokens.shape[0]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(batch, -1, -1), prompt_tokens], dim=1)
        if token_mask is not None:
            token_mask = torch.cat([token_mask.new_ones(batch, own.shape[0]), token_mask], dim=1)

        size_hw = (features.embedding.shape[-2], features.embedding.shape[-1])
        flat_pe = image_pe.flatten(1).T[None]
        known, stacked = None, None
        if isinstance(features, PreparedFeatures):
            known, stacked = features.known, features.heads
        positions: Tensor | FactoredMap
        if known is not None and self.transformer.suits(tokens, known):
            tokens, positions = self.transformer.answer(
                known, flat_pe, dense_prompt.shown, tokens, token_mask, own.shape[0]
            )
        else:
            image = of_prompts(features.embedding, image_index) + dense_prompt.coarse(size_hw)
            image = image.flatten(2).transpose(1, 2)
            tokens, positions = self.transformer(image, flat_pe, tokens, token_mask, own.shape[0])

        ious = self.iou_prediction_head(tokens[:, 0])
        shown_ious, promising = ious, None
        if iou_thresh is not None:
            promising = _reach(ious, iou_thresh - (0.0 if self.second_look is None else FARTHEST)).nonzero()[:, 0]
            tokens, shown_ious = tokens[promising], ious[promising]
        consensus = None if self.training else self.consensus
        every = range(len(self.output_hypernetworks_mlps))
        drawn = every[outputs] if consensus is None and self.second_look is None else every
        if stacked is not None:
            heads = stacked(tokens[:, 1:].transpose(0, 1)[: len(every)], drawn).transpose(0, 1)
        else:
            heads = torch.stack([self.output_hypernetworks_mlps[index](tokens[:, 1 + index]) for index in drawn], dim=1)
        if consensus is not None:
            heads = _agreed(shown_ious, consensus) @ heads
        prepared = self.prepare(features, dense_prompt)
        draw = partial(
            self.output_upscaling.masks, positions, size_hw, prepared, image_index, dense_prompt, wanted=promising
        )
        if self.second_look is None:
            return draw(heads if consensus is None else heads[:, outputs]), ious
        masks = draw(heads)
        seen = self.second_look(tokens[:, 0], shown_ious, masks)
        if promising is None or iou_thresh is None:
            return masks[:, outputs], seen
        return masks[_reach(seen, iou_thresh), outputs], ious.index_copy(0, promising, seen)

    def prepare(
        self, features: ImageFeatures, dense_prompt: DensePrompt, image_pe: Tensor | None = None
    ) -> PreparedFeatures:
        """Features that answer more quickly, for many prompts of the same images.

        `dense_prompt` is any prompt's, of which only what all prompts share is read. With the image_pe (C, h, w) more
        is prepared, for features of one image.
        """
        if isinstance(features, PreparedFeatures):
            return features
        at_stride8, at_stride4 = self.output_upscaling.shared_by_prompts(features.skips, dense_prompt)
        weights = self.output_upscaling.line_weights()
        known, known_at_stride8, heads = None, None, None
        can_know = isinstance(self.transformer, TwoWayTransformer) and features.embedding.shape[0] == 1
        if can_know and image_pe is not None:
            image = (features.embedding + dense_prompt.base)[0].flatten(1).T
            known = self.transformer.know(image.contiguous(), image_pe.flatten(1).T, dense_prompt.widen)
            if known.end is not None:
                known_at_stride8 = KnownStride8.of(known.end, weights.to_stride8, at_stride8)
            heads = StackedMLPs.of(self.output_hypernetworks_mlps)
        return PreparedFeatures(
            features.embedding,
            features.skips,
            at_stride8=at_stride8,
            at_stride4=at_stride4,
            weights=weights,
            known=known,
            known_at_stride8=known_at_stride8,
            heads=heads,
        )


def _reach(ious: Tensor, iou_thresh: float) -> Tensor:
    """Of which prompts an ambiguous output is predicted to reach it: (B, M) -> (B,) bool."""
    return (ious[:, 1:].float() >= iou_thresh).any(dim=1)


def _agreed(ious: Tensor, consensus: float) -> Tensor:
    """How much of each output goes into each: (B, M, M) for predicted IoU (B, M).

    The single output becomes a mean of all, the most confident of the ambiguous ones a mean of the ambiguous ones,
    weighed by how confident the model is of each; the others stay as they are. Where it is torn between two masks a
    pixel is then taken that both would take. Logits are linear in the heads, so that mixing those costs nothing.
    """
    weights = torch.softmax(ious / consensus, dim=1)
    ambiguous = torch.softmax(ious[:, 1:] / consensus, dim=1)
    is_best = (ambiguous == ambiguous.amax(dim=1, keepdim=True))[..., None]
    own = torch.eye(NUM_MASK_OUTPUTS, dtype=ious.dtype, device=ious.device)
    mixed = torch.cat([torch.zeros_like(weights[:, :1]), ambiguous], dim=1)[:, None]
    return torch.cat([weights[:, None], torch.where(is_best, mixed, own[1:])], dim=1)
