"""From a training run to the weights file that ships."""

from __future__ import annotations

import json
from pathlib import Path

from anymask.errors import CheckpointError
from anymask.model.checkpoints import load_checkpoint, read_metadata, save_checkpoint
from anymask.model.registry import build_model


def export_best(run_folder: Path, destination: Path, *, only_if_better: bool = True) -> str:
    """Write the run's best averaged weights in half precision; returns a sentence that says what was done.

    The held-out score goes into the file's metadata. With `only_if_better` a destination whose own score is as high
    is left alone. Raises `CheckpointError` when the run has no best weights yet.
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
    metadata = {"validation_score": f"{best['score']:.6f}", "validation": json.dumps(best)}
    save_checkpoint(model, destination, metadata)
    return f"wrote {destination}: held-out score {best['score']:.4f} at step {best['step']}"
