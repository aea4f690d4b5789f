"""What a larger model answers to clicks on an annotated picture, for a smaller one's outputs to learn.

The annotation names one object under a click; the teacher's answers are further right ones: the part that was hit, or
what the object is part of. It is asked at the centre of each object and on a grid over all of the picture, since what
it takes for a part is seldom under an object's centre. The answers are decoded from the embedding that `teacher.py`
keeps, and kept beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from anymask.data.sa1b import Sample, is_sa1b, read_json, read_sample, write_sa1b
from anymask.geometry.crops import point_grid
from anymask.geometry.masks import mask_iou_matrix
from anymask.geometry.points import mask_centre_xy
from anymask.geometry.resize import Frame, mask_at_original
from anymask.geometry.rle import decode_rles
from anymask.model.image_encoder import ImageFeatures
from anymask.model.segmenter import PromptBatch, Segmenter, choose_outputs
from anymask.prompts import PointLabel
from anymask.training.teacher import picture_key

MIN_PREDICTED_IOU = 0.7  # assumed; nine of ten of MobileSAM's answers have it
MIN_STABILITY = 0.85  # assumed, of the area at logits of 1 and -1; below lie ragged pieces of texture
MAX_OVERLAP = 0.8  # assumed: answers of a larger IoU are one answer
POINTS_PER_SIDE = 12  # of the grid; assumed
CLICKS_AT_ONCE = 32


def keep_answers(model: Segmenter, picture: Path, folder: Path) -> None:
    """Keep the answers to a picture that has an SA-1B JSON beside it, unless they are kept already.

    `folder` has its embedding. Raises `DataError` for a broken JSON.
    """
    json_path = picture.with_suffix(".json")
    if not json_path.exists() or not is_sa1b(read_json(json_path)):
        return
    sample = read_sample(picture)
    kept = folder / f"{picture_key(sample.encoded())}.json"
    if not kept.exists():
        masks, extras = answer_clicks(model, sample, np.load(kept.with_suffix(".npy")))
        write_sa1b(kept, picture.name, sample.size_hw, masks, extras)


@torch.inference_mode()
def answer_clicks(
    model: Segmenter, sample: Sample, embedding_chw: np.ndarray
) -> tuple[np.ndarray, list[dict[str, object]]]:
    """The distinct answers to clicks on objects and on a grid: masks (K, H, W) bool, and what is said of each."""
    features, frame = _features(model, sample, embedding_chw)
    clicks_xy = [mask_centre_xy(mask) for mask in _masks(sample) if mask.any()]
    clicks_xy.extend((point_grid(POINTS_PER_SIDE) * sample.size_hw[::-1]).tolist())
    masks: list[np.ndarray] = []
    extras: list[dict[str, object]] = []
    kept = np.zeros((0, *(4 * side for side in features.embedding.shape[-2:])), dtype=bool)
    for start in range(0, len(clicks_xy), CLICKS_AT_ONCE):
        clicks = clicks_xy[start : start + CLICKS_AT_ONCE]
        points = torch.from_numpy(frame.points_to_model(np.array([[click, (0, 0)] for click in clicks])))
        labels = torch.tensor([[PointLabel.FOREGROUND, PointLabel.NOT_A_POINT]]).expand(len(clicks), 2)
        prompts = PromptBatch(points.to(model.device), labels.to(model.device))
        answers = choose_outputs(*model.decode(features, prompts), multimask=True)
        logits, ious = (part.float().flatten(0, 1).cpu().numpy() for part in answers)
        for row in distinct(logits, ious, kept):
            masks.append(mask_at_original(logits[row], frame))
            click = clicks[row * len(clicks) // len(logits)]
            extras.append({"predicted_iou": float(ious[row]), "point_coords": [list(click)]})
            kept = np.concatenate([kept, logits[row : row + 1] > 0])
    return np.array(masks, dtype=bool).reshape(-1, *sample.size_hw), extras


def distinct(logits_khw: np.ndarray, ious: np.ndarray, kept_lhw: np.ndarray) -> list[int]:
    """Which answers are good and unlike each other and those kept (L, h, w), most confident first.

    logits (K, h, w), whose sign is the mask; ious (K,) as predicted.
    """
    masks = logits_khw > 0
    stability = (logits_khw > 1).sum(axis=(1, 2)) / np.maximum((logits_khw > -1).sum(axis=(1, 2)), 1)
    is_good = (ious >= MIN_PREDICTED_IOU) & (stability >= MIN_STABILITY) & masks.any(axis=(1, 2))
    overlap = mask_iou_matrix(masks, np.concatenate([masks, kept_lhw]))
    unlike: list[int] = list(range(len(masks), overlap.shape[1]))
    for row in np.argsort(-ious, kind="stable"):
        if is_good[row] and (overlap[row, unlike] <= MAX_OVERLAP).all():
            unlike.append(int(row))
    return unlike[len(kept_lhw) :]


def _features(model: Segmenter, sample: Sample, embedding_chw: np.ndarray) -> tuple[ImageFeatures, Frame]:
    """What the teacher decodes from, and where the image lies in that."""
    if model.image_encoder.skip_channels:  # which nobody keeps
        pixels, frame = model.preprocess(sample.read_image())
        return model.prepare(model.encode(pixels)), frame
    features = ImageFeatures(torch.from_numpy(embedding_chw).to(model.device, model.dtype)[None])
    # The picture's own cells alone, as if nothing were padded: MobileSAM's clicks are as good ("measured" on 190
    # objects: 49.9, best of three 72.3, from the whole embedding 49.6 and 72.7) and take three quarters of the time.
    own_hw = tuple(cells * model.image_encoder.stride for cells in embedding_chw.shape[1:])
    return model.prepare(features), replace(model.frame(sample.size_hw), padded_hw=(own_hw[0], own_hw[1]))


def _masks(sample: Sample) -> Iterator[np.ndarray]:
    """The annotated masks (H, W), one after the other."""
    for annotation in sample.annotations:
        yield decode_rles([annotation.rle], sample.size_hw)[0]
