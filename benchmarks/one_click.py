"""One click on an image that is encoded: the best mask at the image's own size, with ViT-B."""

from __future__ import annotations

import numpy as np

from pairs import Pair, Task

POINT_XY = (900.0, 600.0)
SAME_EMBEDDING = (1, 256, 64, 64)


def ours() -> Task:
    import torch

    import networks
    from anymask import ImageEmbedding, Predictor
    from anymask.model.checkpoints import fingerprint
    from anymask.model.image_encoder import ImageFeatures

    model = networks.ours()
    features = ImageFeatures(same_embedding().contiguous(memory_format=torch.channels_last))
    predictor = Predictor(model)
    predictor.set_image(ImageEmbedding(features, model.frame(networks.IMAGE_HW), fingerprint(model)))

    def run() -> np.ndarray:
        return predictor.predict([POINT_XY], [1], multimask=True).best

    return Task(run, lambda: predictor.predict([POINT_XY], [1], multimask=True).logits)


def metas() -> Task:
    import networks

    model = networks.metas()
    from segment_anything import SamPredictor

    predictor = SamPredictor(model)
    predictor.features, predictor.is_image_set = same_embedding(), True
    predictor.original_size, predictor.input_size = networks.IMAGE_HW, (683, 1024)
    point, label = np.array([POINT_XY]), np.array([1])

    def run() -> np.ndarray:
        masks, scores, _ = predictor.predict(point, label, multimask_output=True)
        return masks[scores.argmax()]

    def answer() -> np.ndarray:
        _, scores, logits = predictor.predict(point, label, multimask_output=True)
        return logits[np.argsort(-scores)]

    return Task(run, answer)


def huggingfaces() -> Task:
    """The best of its three masks brought to full size as its processor does: two bilinear steps, then a cut at 0."""
    import torch
    import torch.nn.functional as F

    import networks

    model = networks.huggingfaces()
    embedding = same_embedding()
    points = torch.tensor([[[POINT_XY]]]) * torch.tensor([1024 / networks.IMAGE_HW[1], 683 / networks.IMAGE_HW[0]])
    labels = torch.ones(1, 1, 1, dtype=torch.long)

    @torch.inference_mode()
    def decode() -> tuple[torch.Tensor, torch.Tensor]:
        out = model(image_embeddings=embedding, input_points=points, input_labels=labels, multimask_output=True)
        return out.pred_masks[0, 0], out.iou_scores[0, 0]

    def run() -> torch.Tensor:
        logits, scores = decode()
        best = logits[scores.argmax()][None, None]
        padded = F.interpolate(best, (1024, 1024), mode="bilinear", align_corners=False)
        return F.interpolate(padded[..., :683, :], networks.IMAGE_HW, mode="bilinear", align_corners=False) > 0

    def answer() -> np.ndarray:
        logits, scores = decode()
        return logits[scores.argsort(descending=True)].numpy()

    return Task(run, answer)


def same_embedding():  # type: ignore[no-untyped-def]
    """What all three are told the image's embedding is."""
    import torch

    return torch.randn(SAME_EMBEDDING, generator=torch.Generator().manual_seed(2))


PAIR = Pair(
    "ViT-B: one click, the best mask at 1200x1800",
    {"anymask": ours, "segment-anything": metas, "transformers": huggingfaces},
    bars={"segment-anything": 3.0, "transformers": 3.0},
)
