"""The mask decoder as the reference builds and calls it.

Legend: I images, B prompts, N tokens, C channels, h w embedding cells, M mask outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymask.model import layers
from anymask.model import mask_decoder as ours
from anymask.model.image_encoder import ImageFeatures
from anymask.model.mask_decoder import NUM_MASK_OUTPUTS
from anymask.model.prompt_encoder import DensePrompt
from anymask.model.segmenter import choose_outputs


class MLP(layers.MLP):
    """Linear layers with ReLU between them, and a sigmoid at the end if wanted."""

    def __init__(
        self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int, sigmoid_output: bool = False
    ) -> None:
        super().__init__(input_dim, hidden_dim, output_dim, num_layers)
        self.num_layers = num_layers
        self.sigmoid_output = sigmoid_output

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        return torch.sigmoid(output) if self.sigmoid_output else output


class MaskDecoder(ours.MaskDecoder):
    """Image and prompt embeddings to masks and their predicted IoU (paper 3, A)."""

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: nn.Module,
        num_multimask_outputs: int = 3,
        activation: type[nn.Module] = nn.GELU,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        super().__init__(embed_dim=transformer_dim, transformer=transformer, head_dim=iou_head_hidden_dim)  # type: ignore[arg-type]
        self.transformer_dim = transformer_dim
        self.num_multimask_outputs = num_multimask_outputs
        self.num_mask_tokens = num_multimask_outputs + 1
        if self.num_mask_tokens != NUM_MASK_OUTPUTS:
            self.mask_tokens = nn.Embedding(self.num_mask_tokens, transformer_dim)
            self.output_hypernetworks_mlps = nn.ModuleList(
                MLP(transformer_dim, transformer_dim, transformer_dim // 8, 3) for _ in range(self.num_mask_tokens)
            )
        if self.num_mask_tokens != NUM_MASK_OUTPUTS or iou_head_depth != 3:
            self.iou_prediction_head = MLP(transformer_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth)
        if activation is not nn.GELU:
            self.output_upscaling[2], self.output_upscaling[4] = activation(), activation()

    def forward(  # type: ignore[override]
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (B, 3 or 1, 4h, 4w) and predicted IoU (B, 3 or 1): the ambiguous outputs or the single one."""
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
        """Every output: mask logits (B, M, 4h, 4w) and predicted IoU (B, M).

        image_embeddings (I, C, h, w), one image for all prompts or one each; image_pe (1, C, h, w); sparse (B, N, C);
        dense (B, C, h, w). token_mask (B, N) is our own: False at tokens that nothing may attend to.
        """
        features, dense = (
            ImageFeatures(image_embeddings),
            DensePrompt(dense_prompt_embeddings, dense_prompt_embeddings.new_zeros(0, self.transformer_dim)),
        )
        return super().forward(features, image_pe[0], sparse_prompt_embeddings, dense, token_mask)
