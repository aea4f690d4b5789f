"""8-bit weights for the image encoder: written as a checkpoint, with what they cost and gain measured here and now."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from anymask.errors import AnymaskError
from anymask.evaluation.point_scores import PointResults, evaluate_points
from anymask.evaluation.points import PointSettings, Progress
from anymask.model.checkpoints import save_checkpoint
from anymask.model.int8 import METADATA_KEY, PART, replace_linear_layers, require_processor
from anymask.model.segmenter import Segmenter
from anymask.predictor import Predictor

SPEED_RUNS = 9
# What suits a processor's cache, as in `anymask evaluate points`.
PROMPTS_PER_BATCH = 8


@dataclass(frozen=True)
class Cost:
    """What a second form of a model costs and gains: results on the same objects, milliseconds to encode an image.

    Without data to judge on the results are None: what it costs was not measured.
    """

    before: PointResults | None
    after: PointResults | None
    encode_ms_before: float
    encode_ms_after: float

    @property
    def lost_points(self) -> dict[str, float] | None:
        """Percentage points of mean IoU lost, by measure, as a mean over the sets."""
        if self.before is None or self.after is None:
            return None
        return _lost(self.before.mean, self.after.mean)

    @property
    def lost_points_by_set(self) -> dict[str, dict[str, float]] | None:
        """Percentage points of mean IoU lost, by set and measure."""
        if self.before is None or self.after is None:
            return None
        return {name: _lost(scores.miou, self.after.sets[name].miou) for name, scores in self.before.sets.items()}

    @property
    def speedup(self) -> float:
        return self.encode_ms_before / self.encode_ms_after

    def to_json(self) -> dict[str, object]:
        return {
            "before": None if self.before is None else self.before.to_json(),
            "after": None if self.after is None else self.after.to_json(),
            "lost_points": self.lost_points,
            "lost_points_by_set": self.lost_points_by_set,
            "encode_ms_before": self.encode_ms_before,
            "encode_ms_after": self.encode_ms_after,
            "speedup": self.speedup,
        }


def _lost(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {measure: 100 * (value - after[measure]) for measure, value in before.items()}


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
    max_objects: int | None = None,
    progress: Progress | None = None,
) -> Cost:
    """Both models on the same objects (one click, and the box; paper, section 7.1), and their encoders' speed in turn.

    `data_folders` are data sets in any layout that `open_point_set` finds out; without any, speed alone is measured.
    `max_images` of each at most, and `max_objects` of each image, evenly spaced. Raises `DataError` for broken data.
    """
    settings = PointSettings(clicks=(1,), max_images=max_images, max_objects=max_objects)
    results: dict[str, PointResults] = {}
    for kind, model in (("float32", before), ("int8", after)) if data_folders else ():
        with tempfile.TemporaryDirectory() as folder:
            predictor = Predictor(model, prompts_per_batch=PROMPTS_PER_BATCH)
            report = None if progress is None else _labelled(progress, kind)
            results[kind] = evaluate_points(predictor, data_folders, folder, settings, progress=report)
    before_ms, after_ms = encode_times_ms([before, after])
    return Cost(results.get("float32"), results.get("int8"), before_ms, after_ms)


def _labelled(progress: Progress, kind: str) -> Progress:
    return lambda name, done, total: progress(f"{name}, {kind}", done, total)


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
