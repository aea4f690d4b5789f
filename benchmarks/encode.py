"""One image to its embedding, with ViT-B."""

from __future__ import annotations

import numpy as np

from pairs import Pair, Task

# What no implementation can leave out of ViT-B at 64x64 cells: linear layers 696, attention 230, the rest 14 GFLOP.
ENCODE_GFLOP = 940.0
GEMM_SIDE = 4096


def ours() -> Task:
    import networks
    from anymask import Predictor

    model = networks.ours()
    predictor, image = Predictor(model), networks.photograph()
    return Task(
        lambda: predictor.set_image(image),
        lambda: model.encode(networks.model_pixels()).embedding.numpy(),
    )


def metas() -> Task:
    import torch

    import networks

    model = networks.metas()
    from segment_anything import SamPredictor

    predictor, image = SamPredictor(model), networks.photograph()

    @torch.inference_mode()
    def answer() -> np.ndarray:
        return model.image_encoder(networks.model_pixels()).numpy()

    return Task(lambda: predictor.set_image(image), answer)


def huggingfaces() -> Task:
    """Without its image processor, in its favour: it gets pixels that are ready."""
    import torch

    import networks

    model, pixels = networks.huggingfaces(), networks.model_pixels()

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return model.get_image_embeddings(pixels)

    return Task(run, lambda: run().numpy())


def floor() -> Task:
    """The same amount of arithmetic as one large matrix product."""
    import torch

    a, b = torch.randn(2, GEMM_SIDE, GEMM_SIDE).unbind()
    return Task(lambda: a @ b, count=2e-9 * GEMM_SIDE**3 / ENCODE_GFLOP)


PAIR = Pair(
    "ViT-B: encode one image of 1200x1800",
    {"anymask": ours, "segment-anything": metas, "transformers": huggingfaces, "floor": floor},
    bars={"segment-anything": 2.5, "transformers": 1.8},
    rounds=5,
    quick_rounds=1,
)
