"""One training step: encode once, then several rounds of simulated prompts (paper A, "Training algorithm").

Legend: I images, B masks, M outputs, S crop side, h w logit grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.model.segmenter import PromptBatch, Segmenter, choose_outputs
from anymask.prompts import PointLabel
from anymask.training.clicks import Draws, correction_clicks, first_prompts
from anymask.training.config import TrainConfig
from anymask.training.dataset import TrainingBatch
from anymask.training.losses import contrastive_loss, segmentation_loss
from anymask.training.teacher import TeacherHead, teacher_channels, teacher_loss

SAME_IOU = 0.7  # assumed: two masks that overlap more than that show one object, drawn twice


class TrainingStep(nn.Module):
    """The segmenter with its loss, as one module, so that data parallelism wraps a single forward pass."""

    def __init__(self, segmenter: Segmenter, config: TrainConfig) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.config = config
        self.teacher_head: TeacherHead | None = None
        if config.teacher is not None:
            self.teacher_head = TeacherHead(segmenter.image_encoder, teacher_channels(config.teacher))
        self.encode = torch.compile(segmenter.encode) if config.compile else segmenter.encode

    def forward(self, batch: TrainingBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over all rounds, and what the curves show: losses and IoU of the first and last round."""
        pixels = zero_padding(self.segmenter.normalise(batch.pixels), batch.sizes_hw)
        features = self.encode(pixels.contiguous(memory_format=torch.channels_last))
        grid_size = self.config.crop_size * 4 // self.segmenter.image_encoder.stride
        target = grid_target(batch.masks, grid_size)

        points, labels = first_prompts(batch.masks, draws, self.config.annotator)
        feedback: Tensor | None = None
        losses: list[Tensor] = []
        curves: dict[str, Tensor] = {}
        brings_point = [True, *self.config.schedule.draw(draws)]
        for round_index, is_new_point in enumerate(brings_point):
            if round_index and is_new_point:
                assert feedback is not None
                predicted = upsampled(feedback, self.config.crop_size) > 0
                new_points, new_labels = correction_clicks(batch.masks, predicted, draws, self.config.annotator)
                points, labels = torch.cat([points, new_points], 1), torch.cat([labels, new_labels], 1)
            prompts = PromptBatch(points, labels, feedback, image_index=batch.image_index)
            all_logits, all_ious = self.segmenter.decode(features, prompts)
            # A lone point or box is ambiguous and gets three answers; everything after it one (paper 3, A).
            logits, ious = choose_outputs(
                all_logits, all_ious, multimask=round_index == 0 and not self.config.is_single_output
            )
            also_right = None
            if round_index == 0 and self.config.has_all_answers:
                prompts_of, others = other_masks_under_click(batch, points, labels)
                also_right = prompts_of, grid_target(others, grid_size)
            loss, iou = segmentation_loss(logits, ious, target, self.config.losses, also_right)
            if round_index == 0 and self.config.single_output_weight:
                single = choose_outputs(all_logits, all_ious, multimask=False)
                single_loss, _ = segmentation_loss(*single, target, self.config.losses)
                loss = loss + self.config.single_output_weight * single_loss
            losses.append(loss)
            best = ious.argmax(dim=1)
            rows = torch.arange(best.shape[0], device=best.device)
            feedback = logits[rows, best][:, None].detach().float()
            if round_index == 0:
                curves["iou_first"] = iou[rows, best].mean()
                curves["iou_oracle"] = iou.max(dim=1).values.mean()
                curves["loss_first"] = loss.detach()
        curves["iou_last"] = iou.mean()
        total = torch.stack(losses).mean()
        if self.config.losses.contrastive:
            grid_hw = features.embedding.shape[-2:]
            halves = (draws.uniform(len(batch.masks), *grid_hw) < 0.5).to(total.device)
            alike = contrastive_loss(features.embedding, batch.masks, batch.image_index, halves)
            total = total + self.config.losses.contrastive * alike
        if self.teacher_head is not None:
            assert batch.teacher is not None
            assert batch.teacher_knows is not None
            drawn = self.teacher_head(features, batch.teacher.shape[-1])
            unlike = teacher_loss(drawn, batch.teacher, batch.teacher_knows)
            total = total + self.config.losses.teacher * unlike
            curves["loss_teacher"] = unlike.detach()
        curves["loss"] = total.detach()
        return total, curves


def other_masks_under_click(batch: TrainingBatch, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The other right answers to lone clicks: masks of the same image that they lie in, asked for or not.

    points (B, 2, 2), labels (B, 2) as from `first_prompts`; a box means its own object alone. Returns P rows of
    prompts and the mask of each (P, S, S) bool; not one of nearly the same pixels as the prompt's own.
    """
    masks = torch.cat([batch.masks, batch.answers])
    image_index = torch.cat([batch.image_index, batch.answer_image_index])
    x, y = points[:, 0].long().clamp(0, masks.shape[-1] - 1).unbind(1)
    is_inside = masks[:, y, x].T  # prompt, mask
    is_same_image = batch.image_index[:, None] == image_index
    is_click = labels[:, :1] == PointLabel.FOREGROUND
    prompts, others = (is_inside & is_same_image & is_click).fill_diagonal_(False).nonzero(as_tuple=True)
    own, other = batch.masks[prompts], masks[others]
    overlap, union = (own & other).sum(dim=(1, 2)), (own | other).sum(dim=(1, 2))
    is_another = overlap <= SAME_IOU * union
    return prompts[is_another], other[is_another]


def zero_padding(pixels: Tensor, sizes_hw: Tensor) -> Tensor:
    """Normalised pixels (I, 3, S, S), zero beyond each image's size (I, 2), as in `Segmenter.preprocess`."""
    along = torch.arange(pixels.shape[-1], device=pixels.device)
    is_row, is_column = (along < sizes_hw[:, axis, None] for axis in (0, 1))
    return pixels * (is_row[:, None, :, None] & is_column[:, None, None, :])


def grid_target(masks: Tensor, grid_size: int) -> Tensor:
    """The share of each logit cell that a mask covers: (B, S, S) bool -> (B, h, w) float."""
    return F.adaptive_avg_pool2d(masks.float(), grid_size)


def upsampled(logits: Tensor, size: int) -> Tensor:
    """Logits (B, 1, h, w) at crop resolution (B, S, S)."""
    return F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
