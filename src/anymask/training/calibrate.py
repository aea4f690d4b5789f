"""Predicted IoU after training: the second look is fitted to what the finished model answers.

All else stays as it is, so this takes minutes: the model answers simulated prompts on whole training images, as in use;
what its second look is shown is kept, some hundred numbers a prompt; and the fit itself takes seconds. Learned beside
the masks, from crops and sixteen prompts a step, it gained next to nothing ("measured", see docs/experiments.md).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from anymask.data.sa1b import Sample
from anymask.errors import CheckpointError
from anymask.geometry.masks import mask_iou_matrix
from anymask.geometry.resize import logits_to_original
from anymask.model.checkpoints import load_checkpoint
from anymask.model.image_encoder import ImageFeatures
from anymask.model.registry import build_model
from anymask.model.second_look import SecondLook
from anymask.model.segmenter import PromptBatch, Segmenter
from anymask.training.clicks import Annotator, Draws, clicks_and_boxes, correction_clicks
from anymask.training.config import TrainConfig
from anymask.training.dataset import open_source
from anymask.training.validate import validate

OBJECTS_PER_IMAGE = 6  # assumed: many images tell more than many objects of one
# Each object is asked for by a click and by a box, and both answers are corrected once. "Measured" on 480 images: with
# the corrections predictions for a lone prompt become better too, by 0.002.
KINDS, ROUNDS = 2, 2
# Of the fit: on 2,400 objects more steps changed nothing, and 32 or 128 hidden channels as little ("measured").
FIT_STEPS = 1_500
ROWS_AT_ONCE = 512
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1


def calibrate_best(
    run_folder: Path, config: TrainConfig, *, images: int, progress: Callable[[int], None] = lambda done: None
) -> dict[str, float]:
    """Fit the second look of a run's best weights to their answers on `images` pictures; returns their new scores.

    Raises `CheckpointError` when the run has no best weights yet, or its model has no second look.
    """
    path, facts = run_folder / "best.safetensors", run_folder / "best.json"
    if not path.exists():
        raise CheckpointError(f"{run_folder} has no best.safetensors yet; train until the first validation")
    segmenter = build_model(config.model)
    load_checkpoint(segmenter, path)
    segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    second_look = segmenter.mask_decoder.second_look
    if second_look is None:
        raise CheckpointError(f"{config.model} takes no second look at its answers, and there is nothing to fit")
    fit(second_look, *collect_answers(segmenter, config, images, progress))
    scores = validate(segmenter, config)
    partial = run_folder / "best.safetensors.partial"
    save_file({name: value.contiguous() for name, value in segmenter.state_dict().items()}, partial)
    os.replace(partial, path)
    known = json.loads(facts.read_text()) if facts.exists() else {}
    partial = run_folder / "best.json.partial"
    partial.write_text(json.dumps({**known, **scores}, indent=1))
    os.replace(partial, facts)
    return scores


def collect_answers(
    segmenter: Segmenter, config: TrainConfig, images: int, progress: Callable[[int], None] = lambda done: None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the model answers on so many pictures of the run's train sets, as many of each set.

    Returns the second look's evidence (N, E), predicted IoU before it (N, M) and true IoU (N, M).
    """
    segmenter.eval()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    for index, source in enumerate(config.sources):
        folder = open_source(source, config.splits_file, "train")
        wanted = images * (index + 1) // len(config.sources) - images * index // len(config.sources)
        for picture in np.random.default_rng(config.seed).permutation(len(folder))[:wanted]:
            done += 1
            found.extend(_answers(segmenter, folder[int(picture)], config.annotator, Draws(done, 0, 1)))
            progress(done)
    if not found:
        raise CheckpointError("the train sets hold no object to answer for; allowed: at least one mask")
    evidence, ious, truth = (torch.cat(parts) for parts in zip(*found, strict=True))
    return evidence, ious, truth


@torch.no_grad()
def _answers(
    segmenter: Segmenter, sample: Sample, annotator: Annotator, draws: Draws
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """One picture's part of `collect_answers`, a round after the other."""
    second_look = segmenter.mask_decoder.second_look
    assert second_look is not None
    pixels, frame = segmenter.preprocess(sample.read_image())
    chosen = np.random.default_rng(0).permutation(len(sample.annotations))[:OBJECTS_PER_IMAGE]
    masks = sample.masks_khw()[chosen]
    masks = masks[masks.any(axis=(1, 2))]
    if not len(masks):
        return []
    features = segmenter.encode(pixels)
    masks = np.concatenate([masks] * KINDS)
    truth = torch.from_numpy(masks)
    points, labels = clicks_and_boxes(truth[: len(masks) // KINDS], draws, annotator)
    feedback: Tensor | None = None
    predicted = np.zeros_like(masks)
    rounds = []
    for is_first in (True, *[False] * (ROUNDS - 1)):
        if not is_first:
            clicks, clicked = correction_clicks(truth, torch.from_numpy(predicted), draws, annotator)
            points, labels = torch.cat([points, clicks], 1), torch.cat([labels, clicked], 1)
        prompts = PromptBatch(torch.from_numpy(frame.points_to_model(points.numpy())), labels, feedback)
        token, ious, logits = _shown(segmenter, features, prompts)
        answers = np.stack([logits_to_original(own, frame) > 0 for own in logits.numpy()])
        true_ious = np.stack([mask_iou_matrix(own, mask[None])[:, 0] for own, mask in zip(answers, masks, strict=True)])
        rounds.append((second_look.evidence(token, ious, logits), ious, torch.from_numpy(true_ious).to(ious.dtype)))
        best = 1 + ious[:, 1:].argmax(dim=1) if is_first else torch.zeros(len(ious), dtype=torch.long)
        rows = torch.arange(len(best))
        feedback, predicted = logits[rows, best][:, None], answers[rows.numpy(), best.numpy()]
    return rounds


def _shown(segmenter: Segmenter, features: ImageFeatures, prompts: PromptBatch) -> list[Tensor]:
    """What `decode` shows to the second look: token (B, C), predicted IoU (B, M) before it, logits (B, M, h, w)."""
    second_look = segmenter.mask_decoder.second_look
    assert second_look is not None
    shown: list[tuple[Tensor, Tensor, Tensor]] = []  # batch by batch
    handle = second_look.register_forward_pre_hook(lambda _, given: shown.append(given))
    try:
        segmenter.decode(features, prompts)
    finally:
        handle.remove()
    return [torch.cat(parts) for parts in zip(*shown, strict=True)]


def fit(second_look: SecondLook, evidence: Tensor, ious: Tensor, truth: Tensor, seed: int = 0) -> None:
    """Teach a second look anew, by the absolute error of predicted IoU. Shapes as from `collect_answers`."""
    generator = torch.Generator().manual_seed(seed)
    first = second_look.mlp.layers[0]
    assert isinstance(first, nn.Linear)
    nn.init.kaiming_uniform_(first.weight, a=5**0.5, generator=generator)
    nn.init.zeros_(first.bias)
    second_look.forget()
    mean, spread = evidence.mean(dim=0), evidence.std(dim=0)
    spread = torch.where(
        spread < 1e-3, 1.0, spread
    )  # a number that never changes, as how far a mask agrees with itself
    optimiser = torch.optim.AdamW(second_look.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for step in range(FIT_STEPS):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / FIT_STEPS)
        rows = torch.randint(len(evidence), (ROWS_AT_ONCE,), generator=generator)
        judged = second_look.judge(ious[rows], (evidence[rows] - mean) / spread)
        (judged - truth[rows]).abs().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():  # the evidence comes as it is from now on
        first.bias.sub_(first.weight @ (mean / spread))
        first.weight.div_(spread)
