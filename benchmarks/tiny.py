"""The shipped model alone: its own times against the limits set for it."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from pairs import Pair, Task

POINT_XY = (900.0, 600.0)


def encode(runtime: str = "torch") -> Task:
    import anymask
    import networks

    model, image = anymask.load_model("tiny", device="cpu", runtime=runtime), networks.photograph()
    return Task(lambda: anymask.encode(model, image))


def decode(runtime: str = "torch") -> Task:
    """The network's part of a click on an image that is prepared: prompt encoder and mask decoder, all outputs."""
    import torch

    import anymask
    import networks
    from anymask.model.segmenter import PromptBatch
    from anymask.prompts import PointLabel

    model = anymask.load_model("tiny", device="cpu", runtime=runtime)
    with torch.inference_mode():
        features = model.prepare(anymask.encode(model, networks.photograph()).features)
    points = torch.tensor([[[256.0, 170.0], [0.0, 0.0]]])
    batch = PromptBatch(points, torch.tensor([[1, int(PointLabel.NOT_A_POINT)]]))

    @torch.inference_mode()
    def run() -> object:
        return model.decode(features, batch)

    return Task(run)


def click(runtime: str = "torch") -> Task:
    import anymask
    import networks

    predictor = anymask.Predictor(anymask.load_model("tiny", device="cpu", runtime=runtime))
    predictor.set_image(networks.photograph())
    return Task(lambda: predictor.predict([POINT_XY], [1]).best)


def import_anymask() -> Task:
    """A fresh interpreter that imports the package and ends."""
    return Task(lambda: subprocess.run([sys.executable, "-c", "import anymask"], check=True))


LIMITS_S = {"encode": 0.1, "decode": 0.005, "click": 0.012}
TASKS = {"encode": encode, "decode": decode, "click": click}

PAIR = Pair(
    "tiny: image of 1200x1800",
    {
        **TASKS,
        **{f"{name}, onnxruntime": partial(task, "onnx") for name, task in TASKS.items()},
        "import anymask": import_anymask,
    },
    limits_s={**LIMITS_S, **{f"{name}, onnxruntime": limit for name, limit in LIMITS_S.items()}, "import anymask": 0.3},
)
