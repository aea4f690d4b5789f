"""64 clicks in one batch on an image that is encoded: three masks of 256x256 each, with ViT-B; times are per click."""

from __future__ import annotations

from typing import Any

from one_click import same_embedding
from pairs import Pair, Task

COUNT = 64


def points_xy() -> Any:
    """(COUNT, 1, 2) model pixels inside the image."""
    import torch

    return torch.rand(COUNT, 1, 2, generator=torch.Generator().manual_seed(3)) * torch.tensor([1024.0, 683.0])


def ours() -> Task:
    import torch

    import networks
    from anymask.model.image_encoder import ImageFeatures
    from anymask.model.segmenter import PromptBatch
    from anymask.prompts import PointLabel

    model = networks.ours()
    features = ImageFeatures(same_embedding().contiguous(memory_format=torch.channels_last))
    # One "not a point" after the point, as the reference appends it.
    points = torch.cat([points_xy(), torch.zeros(COUNT, 1, 2)], dim=1)
    labels = torch.tensor([[1, int(PointLabel.NOT_A_POINT)]]).expand(COUNT, 2)
    batch = PromptBatch(points, labels)

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return model.decode(model.prepare(features), batch, outputs=slice(1, None))[0]

    return Task(run, lambda: run().numpy(), COUNT)


def metas() -> Task:
    import torch

    import networks

    model = networks.metas()
    embedding, points, labels = same_embedding(), points_xy(), torch.ones(COUNT, 1)

    @torch.inference_mode()
    def run() -> torch.Tensor:
        sparse, dense = model.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        masks, _ = model.mask_decoder(embedding, model.prompt_encoder.get_dense_pe(), sparse, dense, True)
        return masks

    return Task(run, lambda: run().numpy(), COUNT)


def huggingfaces() -> Task:
    import torch

    import networks

    model = networks.huggingfaces()
    embedding, points = same_embedding(), points_xy()[None]
    labels = torch.ones(1, COUNT, 1, dtype=torch.long)

    @torch.inference_mode()
    def run() -> torch.Tensor:
        out = model(image_embeddings=embedding, input_points=points, input_labels=labels, multimask_output=True)
        return out.pred_masks[0]

    return Task(run, lambda: run().numpy(), COUNT)


PAIR = Pair(
    f"ViT-B: {COUNT} clicks in a batch, masks of 256x256, per click",
    {"anymask": ours, "segment-anything": metas, "transformers": huggingfaces},
    bars={"segment-anything": 4.0, "transformers": 4.0},
    rounds=5,
    quick_rounds=2,
)
