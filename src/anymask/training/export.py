"""From a training run to the weights file that ships."""

from __future__ import annotations

import json
from pathlib import Path

from anymask.errors import CheckpointError
from anymask.model.checkpoints import load_checkpoint, read_metadata, save_checkpoint
from anymask.model.registry import build_model
from anymask.model.segmenter import GeneratorDefaults

# What a model's weights bring for automatic masks, where the paper's thresholds do not suit it: `tiny` predicts lower
# IoUs and its edges are soft, so that the paper's leave nothing at all. "Measured" on 6 held-out photos of COCO and
# BSDS500 each, 32x32 points: these leave 35 and 48 masks an image that find 45% and 46% of the annotated objects at IoU
# 0.5; of the masks on BSDS500, where people drew everything, 38% fit what somebody drew. With 0.5, 0.6 and 0.7 it is 52
# and 83 masks, 50% and 56%, and 34% that fit; with 0.6, 0.7 and 0.7 25 and 33 masks, 43% and 40%, and 47%, but in
# pictures a saucer, a rocket and a nose are missed that anybody would name.
# `benchmarks/thresholds.py` tries others.
GENERATOR_DEFAULTS = {"tiny": GeneratorDefaults(pred_iou_thresh=0.55, stability_score_thresh=0.7, box_nms_thresh=0.7)}


def export_best(run_folder: Path, destination: Path, *, only_if_better: bool = True) -> str:
    """Write the run's best averaged weights in half precision; returns a sentence that says what was done.

    The held-out score and the thresholds of `GENERATOR_DEFAULTS` go into the file's metadata. With `only_if_better` a
    destination whose own score is as high is left alone. Raises `CheckpointError` when the run has no best weights
    yet.
    """
    scores_file = run_folder / "best.json"
    if not scores_file.exists():
        raise CheckpointError(f"{run_folder} has no best.json yet; train until the first validation")
    best = json.loads(scores_file.read_text())
    config = json.loads((run_folder / "config.json").read_text())
    if only_if_better and destination.exists():
        shipped = float(read_metadata(destination).get("validation_score", "-inf"))
        if shipped >= best["score"]:
            return f"left {destination} alone: held-out score {shipped:.4f}, the run's {best['score']:.4f}"
    model = build_model(config["model"])
    load_checkpoint(model, run_folder / "best.safetensors")
    model.generator_defaults = GENERATOR_DEFAULTS.get(model.name, GeneratorDefaults())
    metadata = {"validation_score": f"{best['score']:.6f}", "validation": json.dumps(best)}
    save_checkpoint(model, destination, metadata)
    return f"wrote {destination}: held-out score {best['score']:.4f} at step {best['step']}"
