"""Hugging Face's names for the reference's weights, turned back into the reference's.

Source: the keys of `SamModel` in transformers 4.57 to 5.23; a test compares all three networks.
"""

from __future__ import annotations

import re

from torch import Tensor

FOURIER_MATRIX = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"

# Whole keys first, then beginnings; the rest of a key stays.
_EXACT = {
    "shared_image_embedding.positional_embedding": FOURIER_MATRIX,
    "prompt_encoder.shared_embedding.positional_embedding": FOURIER_MATRIX,  # the same matrix a second time
}
_BEGINNINGS = (
    (r"vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"vision_encoder\.", "image_encoder."),
    (r"prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
)
_HEAD_LAYER = re.compile(
    r"(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+)\.)(proj_in|proj_out|layers\.0)\."
)
_HEAD_LAYERS = {"proj_in": "layers.0.", "layers.0": "layers.1.", "proj_out": "layers.2."}


def is_from_huggingface(state: dict[str, Tensor]) -> bool:
    """Whether these are the keys of transformers' `SamModel`."""
    return any(key.startswith("vision_encoder.") or key in _EXACT for key in state)


def from_huggingface(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of transformers' `SamModel` under the reference's keys; the tensors are not copied."""
    return {_reference_key(key): tensor for key, tensor in state.items()}


def _reference_key(key: str) -> str:
    if key in _EXACT:
        return _EXACT[key]
    for beginning, replacement in _BEGINNINGS:
        renamed, count = re.subn("^" + beginning, replacement, key)
        if count:
            key = renamed
            break
    key = _HEAD_LAYER.sub(lambda match: match[1] + _HEAD_LAYERS[match[2]], key)
    return key.replace(".layer_norm", ".norm")
