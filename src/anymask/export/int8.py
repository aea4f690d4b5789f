"""8-bit weights for the image encoder: written as a checkpoint, with what they cost and gain measured here and now."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from anymask.errors import AnymaskError
from anymask.evaluation.point_scores import evaluate_points
from anymask.evaluation.points import PointSettings, Progress
from anymask.model.checkpoints import save_checkpoint
from anymask.model.int8 import METADATA_KEY, PART, replace_linear_layers, require_processor
from anymask.model.segmenter import Segmenter
from anymask.predictor import Predictor

SPEED_RUNS = 5


@dataclass(frozen=True)
class Cost:
    """What a second form of a model costs and gains: mean IoU in percent by measure, milliseconds an image."""

    miou_before: dict[str, float]
    miou_after: dict[str, float]
    encode_ms_before: float
    encode_ms_after: float

    @property
    def lost_points(self) -> dict[str, float]:
        """Percentage points of mean IoU lost, by measure."""
        return {name: before - self.miou_after[name] for name, before in self.miou_before.items()}

    @property
    def speedup(self) -> float:
        return self.encode_ms_before / self.encode_ms_after

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"lost_points": self.lost_points, "speedup": self.speedup}


def round_encoder(model: Segmenter) -> Segmenter:
    """A copy of a model on the CPU in float32 whose image encoder's linear layers have 8-bit weights.

    Raises `AnymaskError` for a model elsewhere, or without such layers.
    """
    require_processor(model.device, model.dtype)
    rounded = copy.deepcopy(model)
    assert isinstance(rounded.image_encoder, torch.nn.Module)
    if not replace_linear_layers(rounded.image_encoder):
        raise AnymaskError(f"the image encoder of {model.name} has no linear layers; there is nothing to round")
    return rounded


def save_int8(rounded: Segmenter, path: str | Path) -> Path:
    """Write a model that `round_encoder` made; `load_model` takes the file as any checkpoint."""
    path = Path(path)
    if not path.parent.is_dir():
        raise AnymaskError(f"{path} cannot be written: there is no folder {path.parent}")
    save_checkpoint(rounded, path, {METADATA_KEY: PART})
    return path


def measure_cost(
    before: Segmenter,
    after: Segmenter,
    data_folders: Sequence[str | Path],
    max_images: int | None = None,
    progress: Progress | None = None,
) -> Cost:
    """Both models on the same objects (one click, and the box; paper, section 7.1), and their encoders' speed in turn.

    `data_folders` are in SA-1B's layout; without any, speed alone is measured. Raises `DataError` for broken data.
    """
    settings = PointSettings(clicks=(1,), max_images=max_images)
    scores: list[dict[str, float]] = [{}, {}]
    if data_folders:
        for scored, model in zip(scores, (before, after), strict=True):
            with tempfile.TemporaryDirectory() as folder:
                results = evaluate_points(Predictor(model), data_folders, folder, settings, progress=progress)
            scored.update({name: 100 * value for name, value in results.mean.items()})
    return Cost(scores[0], scores[1], *encode_times_ms([before, after]))


@torch.inference_mode()
def encode_times_ms(models: Sequence[Segmenter], runs: int = SPEED_RUNS) -> list[float]:
    """Median milliseconds of each model to encode a 3:4 image, asked in turn so that a busy moment meets all."""
    side = models[0].input_spec.longest_side
    pixels = torch.zeros(1, 3, *models[0].frame((side * 3 // 4, side)).padded_hw)
    times: list[list[float]] = [[] for _ in models]
    for _ in range(runs + 1):
        for taken, model in zip(times, models, strict=True):
            started = time.perf_counter()
            model.encode(pixels)
            taken.append(1000 * (time.perf_counter() - started))
    return [statistics.median(taken[1:]) for taken in times]
