"""Scores on the held-out part of the train sets, which choose the checkpoint. Test sets never come here."""

from __future__ import annotations

import numpy as np
import torch

from anymask.data.sa1b import Sample
from anymask.errors import DataError
from anymask.geometry.boxes import xywh_to_xyxy
from anymask.geometry.masks import mask_iou_matrix
from anymask.geometry.points import mask_centre_xy
from anymask.geometry.resize import Frame, logits_to_original
from anymask.model.segmenter import PromptBatch, Segmenter, choose_outputs
from anymask.prompts import PointLabel
from anymask.training.config import TrainConfig
from anymask.training.dataset import open_source

OBJECTS_PER_IMAGE = 5  # assumed: many images tell more than many objects of one


@torch.inference_mode()
def validate(segmenter: Segmenter, config: TrainConfig) -> dict[str, float]:
    """Mean over sets of the IoU of one centre click, of the best of its three masks, and of the true box.

    Returns those three and `score`, their mean, and `iou_error`, the mean absolute error of the predicted
    IoU. Raises `DataError` when a set holds no object.
    """
    was_training = segmenter.training
    segmenter.eval()
    per_set = []
    sources = config.validation_sources or config.sources
    objects_per_set = max(1, config.validation_objects // len(sources))
    for source in sources:
        folder = open_source(source, config.splits_file, "val")
        results: list[np.ndarray] = []
        for index in np.random.default_rng(0).permutation(len(folder)):
            results.extend(score_image(segmenter, folder[int(index)], multimask=not config.is_single_output))
            if len(results) >= objects_per_set:
                break
        if not results:
            raise DataError(f"{source.folder}: no object to validate on; allowed: at least one mask")
        per_set.append(np.mean(results, axis=0))
    segmenter.train(was_training)
    click, oracle, box, iou_error = np.mean(per_set, axis=0).tolist()
    score = (click + oracle + box) / 3
    return {"score": score, "click": click, "oracle": oracle, "box": box, "iou_error": iou_error}


def score_image(segmenter: Segmenter, sample: Sample, multimask: bool = True) -> list[np.ndarray]:
    """For up to `OBJECTS_PER_IMAGE` objects of one image: (click, oracle, box, predicted-IoU error)."""
    pixels, frame = segmenter.preprocess(sample.read_image())
    features = segmenter.encode(pixels)
    chosen = np.random.default_rng(0).permutation(len(sample.annotations))[:OBJECTS_PER_IMAGE]
    masks = sample.masks_khw()[chosen]
    is_there = masks.any(axis=(1, 2))
    chosen, masks = chosen[is_there], masks[is_there]
    if not len(masks):
        return []
    clicks = np.array([[mask_centre_xy(mask), (0, 0)] for mask in masks])
    boxes = xywh_to_xyxy([sample.annotations[i].bbox_xywh for i in chosen]).reshape(-1, 2, 2)
    points = np.concatenate([frame.points_to_model(clicks), frame.points_to_model(boxes)])
    kinds = (
        [PointLabel.FOREGROUND, PointLabel.NOT_A_POINT],
        [PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT],
    )
    labels = torch.tensor(kinds).repeat_interleave(len(masks), dim=0)
    prompts = PromptBatch(torch.from_numpy(points).to(segmenter.device), labels.to(segmenter.device))
    logits, ious = choose_outputs(*segmenter.decode(features, prompts), multimask)
    results = []
    for row, mask in enumerate(masks):
        click_ious = _ious(logits[row], frame, mask)
        box_ious = _ious(logits[row + len(masks)], frame, mask)
        predicted = ious[row].float().cpu().numpy()
        results.append(
            np.array(
                [
                    click_ious[predicted.argmax()],
                    click_ious.max(),
                    box_ious[int(ious[row + len(masks)].argmax())],
                    np.abs(predicted - click_ious).mean(),
                ]
            )
        )
    return results


def _ious(logits: torch.Tensor, frame: Frame, truth_hw: np.ndarray) -> np.ndarray:
    masks = logits_to_original(logits.float().cpu().numpy(), frame) > 0
    return mask_iou_matrix(masks, truth_hw[None])[:, 0]
