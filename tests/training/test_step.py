from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import small_config

from anymask.model.registry import build_model
from anymask.training.clicks import ClickSchedule, Draws
from anymask.training.dataset import BatchDataset
from anymask.training.losses import LossWeights, mask_losses, segmentation_loss
from anymask.training.step import TrainingStep, grid_target, other_masks_under_click, upsampled


@pytest.fixture(scope="module")
def config(scenes):
    return small_config(scenes, images_per_step=2, masks_per_image=4)


@pytest.fixture(scope="module")
def batch(config):
    return BatchDataset(config, 0, 1)[0]


@pytest.fixture
def segmenter(random_tiny):
    return deepcopy(random_tiny).requires_grad_(True).train()


class Recorder:
    """Keeps what `decode` was asked and what it answered."""

    def __init__(self, segmenter):
        self.decode = segmenter.decode
        self.prompts, self.answers = [], []
        segmenter.decode = self

    def __call__(self, features, prompts):
        self.prompts.append(prompts)
        self.answers.append(self.decode(features, prompts))
        return self.answers[-1]


def test_every_parameter_learns(segmenter, config, batch):
    loss, curves = TrainingStep(segmenter, config)(batch, Draws(0))
    loss.backward()
    assert torch.isfinite(loss)
    gradients = {name: parameter.grad for name, parameter in segmenter.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()] == []
    still = {name for name, gradient in gradients.items() if not gradient.abs().max() > 1e-7}
    # A key's bias shifts all of its scores alike, which the softmax takes out again; of the three ambiguous
    # outputs only those learn that were the best for some mask.
    outputs = {name for name in gradients if "output_hypernetworks_mlps" in name}
    # What lies before a layer that starts at zero learns from the second step on.
    waiting = {
        name
        for name in still
        if ("top_down" in name and ".reduce." in name) or name.startswith("mask_decoder.second_look.mlp.layers.0.")
    }
    assert {name for name in still - outputs - waiting if not name.endswith("k_proj.bias")} == set()
    learning = {name.split(".")[2] for name in outputs - still}
    assert "0" in learning
    assert len(learning) >= 2
    assert set(curves) == {"loss", "loss_first", "iou_first", "iou_oracle", "iou_last"}
    assert curves["loss"].item() == loss.item()
    assert not any(curve.requires_grad for curve in curves.values())
    assert 0 <= curves["iou_first"] <= curves["iou_oracle"] <= 1


def test_rounds_learn_apart(segmenter, config, batch):
    """An answer fed back is a prompt like any other: no gradient goes through it."""
    recorder = Recorder(segmenter)
    TrainingStep(segmenter, config)(batch, Draws(0))
    assert [prompts.mask_logits.requires_grad for prompts in recorder.prompts[1:]] == [False, False]


def test_masks_under_a_click_are_found(batch):
    """Of the drawn image's masks one holds another; a click on the inner one means both, a box its own alone."""
    masks = torch.zeros(4, 64, 64, dtype=torch.bool)
    masks[0, 10:40, 10:40] = True
    masks[1, 20:30, 20:30] = True
    masks[2] = masks[0]  # of another image
    masks[3, 50:60, 50:60] = True
    image_index = torch.tensor([0, 0, 1, 0])
    points = torch.tensor([[[12.0, 12.0], [0, 0]], [[25, 25], [0, 0]], [[25, 25], [0, 0]], [[20, 20], [64, 64]]])
    labels = torch.tensor([[1, -1], [1, -1], [1, -1], [2, 3]])
    batch = replace(batch, masks=masks, image_index=image_index)
    prompts, others = other_masks_under_click(batch, points, labels)
    assert prompts.tolist() == [1]
    assert torch.equal(others, masks[:1])


def test_masks_that_nobody_asks_for_are_found_under_a_click_too(batch):
    """But not the clicked object in another hand, nor what lies in another image or beside the click."""
    asked, whole, apart, again = (torch.zeros(64, 64, dtype=torch.bool) for _ in range(4))
    asked[20:30, 20:30] = True
    whole[10:40, 10:40] = True
    apart[50:60, 50:60] = True
    again[20:30, 20:29] = True
    batch = replace(
        batch,
        masks=torch.stack([asked, apart]),
        image_index=torch.tensor([0, 1]),
        answers=torch.stack([whole, apart, again, whole]),
        answer_image_index=torch.tensor([0, 0, 0, 1]),
    )
    points = torch.tensor([[[25.0, 25.0], [0, 0]], [[55.0, 55.0], [0, 0]]])
    prompts, others = other_masks_under_click(batch, points, torch.tensor([[1, -1], [1, -1]]))
    assert prompts.tolist() == [0]
    assert torch.equal(others, whole[None])


def test_a_prompts_other_answers_count_as_much_as_its_own():
    target = torch.zeros(2, 8, 8)
    target[0, :4], target[1, :, :4] = 1, 1
    logits = torch.stack([20 * target[1] - 10, torch.zeros(8, 8)]).expand(2, 2, 8, 8)
    weights = LossWeights(focal=0, dice=1, iou=0)
    own, _ = segmentation_loss(logits, torch.zeros(2, 2), target, weights)
    first, second = mask_losses(logits, target, weights).min(dim=1).values
    assert own.item() == pytest.approx(((first + second) / 2).item())
    for times in (1, 3):  # however many there are
        others = torch.zeros(times, dtype=torch.long), target[1].expand(times, 8, 8)
        both, _ = segmentation_loss(logits, torch.zeros(2, 2), target, weights, others)
        assert both.item() == pytest.approx((((first + second) / 2 + second) / 2).item())
    none = torch.zeros(0, dtype=torch.long), torch.zeros(0, 8, 8)
    assert segmentation_loss(logits, torch.zeros(2, 2), target, weights, none)[0] == own


def test_one_output_cannot_learn_both_answers():
    """Two answers to one click that lie nearest to the same output are taught to two, in the cheaper of both ways."""
    own, other = torch.zeros(8, 8), torch.zeros(8, 8)
    own[:4], other[:3] = 1, 1
    logits = torch.stack([20 * own - 10, torch.zeros(8, 8), torch.full((8, 8), -1.0)])[None].requires_grad_()
    weights = LossWeights(focal=0, dice=1, iou=0)
    own_losses, other_losses = (mask_losses(logits, mask[None], weights)[0] for mask in (own, other))
    assert own_losses.argmin() == other_losses.argmin() == 0
    ways = [own_losses[i] + other_losses[j] for i in range(3) for j in range(3) if i != j]
    loss, _ = segmentation_loss(
        logits, torch.zeros(1, 3), own[None], weights, (torch.zeros(1, dtype=torch.long), other[None])
    )
    assert loss.item() == pytest.approx(min(ways).item() / 2)
    loss.backward()
    assert (logits.grad[0].flatten(1).abs().sum(dim=1) > 0).sum() == 2


def test_a_single_output_learns_all_answers():
    target = torch.zeros(2, 8, 8)
    target[0, :4], target[1, :, :4] = 1, 1
    logits, weights = torch.zeros(1, 1, 8, 8), LossWeights(focal=0, dice=1, iou=0)
    also_right = torch.zeros(1, dtype=torch.long), target[1:]
    loss, _ = segmentation_loss(logits, torch.zeros(1, 1), target[:1], weights, also_right)
    expected = sum(mask_losses(logits, mask[None], weights).item() for mask in target) / 2
    assert loss.item() == pytest.approx(expected)


def test_all_answers_are_taught(segmenter, config, batch):
    step = TrainingStep(segmenter, replace(config, has_all_answers=True))
    masks = batch.masks.clone()
    masks[1] = masks[0]
    masks[1, :5] = True
    loss, _ = step(replace(batch, masks=masks), Draws(3))
    plain, _ = TrainingStep(segmenter, config)(replace(batch, masks=masks), Draws(3))
    assert torch.isfinite(loss)
    assert loss.item() != plain.item()


def test_a_step_can_be_replayed(segmenter, config, batch):
    step = TrainingStep(segmenter, config)
    first, again, other = (step(batch, Draws(seed))[0].item() for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_a_step_lowers_the_loss(segmenter, config, batch):
    step = TrainingStep(segmenter, config)
    before, _ = step(batch, Draws(0))
    before.backward()
    with torch.no_grad():
        for parameter in segmenter.parameters():
            parameter.sub_(1e-5 * parameter.grad)
    after, _ = step(batch, Draws(0))
    assert after.item() < before.item()


def test_the_papers_rounds(segmenter, config, batch):
    recorder = Recorder(segmenter)
    config = replace(config, schedule=ClickSchedule(rounds=11, mask_only_rounds=2))
    with torch.no_grad():
        TrainingStep(segmenter, config)(batch, Draws(0))
    assert len(recorder.prompts) == 11
    first, *later = recorder.prompts
    assert first.mask_logits is None
    assert first.points_xy.shape == (8, 2, 2)
    counts = [prompts.labels.shape[1] - 2 for prompts in recorder.prompts]
    assert sorted(np.diff(counts).tolist()) == [0, 0] + 8 * [1]
    assert counts[-1] == counts[-2] == 8  # the last round brings no new point

    for before, after in zip(recorder.prompts, later, strict=False):
        kept = before.labels.shape[1]
        assert torch.equal(after.points_xy[:, :kept], before.points_xy)
        assert torch.equal(after.labels[:, :kept], before.labels)

    # Three answers in the first round, the one predicted to be best goes on; then the single one.
    logits, ious = recorder.answers[0]
    best = ious[:, 1:].argmax(dim=1) + 1
    assert torch.equal(later[0].mask_logits[:, 0], logits[torch.arange(8), best])
    for (logits, _), after in zip(recorder.answers[1:], later[1:], strict=False):
        assert torch.equal(after.mask_logits, logits[:, :1])


def test_clicks_correct_the_answer_before(segmenter, config, batch):
    recorder = Recorder(segmenter)
    with torch.no_grad():
        TrainingStep(segmenter, replace(config, schedule=ClickSchedule(5, 0)))(batch, Draws(3))
    for prompts in recorder.prompts[1:]:
        predicted = upsampled(prompts.mask_logits, 64) > 0
        x, y = prompts.points_xy[:, -1].long().unbind(1)
        rows = torch.arange(8)
        truth = batch.masks[rows, y, x]
        assert (prompts.labels[:, -1] == truth.long()).all()
        has_error = (predicted != batch.masks).flatten(1).any(dim=1)
        assert (predicted[rows, y, x] != truth)[has_error].all()


def test_the_single_answer_can_learn_from_ambiguous_prompts(segmenter, config, batch):
    config = replace(config, schedule=ClickSchedule(1, 0))
    for weight, learns in ((0.0, False), (0.5, True)):
        segmenter.zero_grad()
        loss, _ = TrainingStep(segmenter, replace(config, single_output_weight=weight))(batch, Draws(0))
        loss.backward()
        gradient = segmenter.mask_decoder.output_hypernetworks_mlps[0].layers[-1].weight.grad
        assert (gradient is not None and bool(gradient.any())) is learns


def test_training_pads_as_prediction_does(segmenter, config, batch):
    """After normalisation, with zeros; a black border would be another picture."""
    seen, encode = [], segmenter.encode
    segmenter.encode = lambda pixels: seen.append(pixels) or encode(pixels)
    with torch.no_grad():
        TrainingStep(segmenter, config)(batch, Draws(0))
    segmenter.input_spec = replace(segmenter.input_spec, longest_side=64)
    assert (batch.sizes_hw[:, 0] < 64).all()
    for row, (height, width) in enumerate(batch.sizes_hw.tolist()):
        image = batch.pixels[row, :, :height, :width].permute(1, 2, 0).numpy()
        expected, frame = segmenter.preprocess(image)
        assert frame.resized_hw == (height, width)
        assert torch.equal(seen[0][row : row + 1], expected)


def test_targets_are_shares_of_the_grid_cells():
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = True
    masks[0, 4, 4:6] = True
    assert grid_target(masks, 2).tolist() == [[[1, 0], [0, 2 / 16]]]


def test_the_crop_is_seen_where_prediction_would_put_it():
    logits = torch.tensor([[[[-1.0, 1.0]] * 2]])
    assert upsampled(logits, 4).tolist() == [[[-1, -0.5, 0.5, 1]] * 4]


def test_a_conv_encoder_trains_too(scenes):
    config = small_config(scenes, model="conv")
    segmenter = build_model("conv").train()
    loss, _ = TrainingStep(segmenter, config)(BatchDataset(config, 0, 1)[0], Draws(0))
    loss.backward()
    gradients = [parameter.grad for parameter in segmenter.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
