import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anymask.training.losses import (
    MASK_LOSSES,
    LossWeights,
    balanced_cross_entropy_loss,
    contrastive_loss,
    cross_entropy_loss,
    dice_loss,
    focal_loss,
    mask_losses,
    segmentation_loss,
    true_iou,
)

SURE = 40.0  # a logit whose probability is 1 or 0 in float32


def grid(*rows):
    return torch.tensor([rows], dtype=torch.float32)


@pytest.mark.parametrize(
    ("logit", "target", "expected"),
    [
        (0.0, 1.0, 0.25 * 0.25 * math.log(2)),  # alpha * (1 - p)^2 * -log p at p = 1/2
        (0.0, 0.0, 0.75 * 0.25 * math.log(2)),
        (math.log(3), 1.0, 0.25 * 0.0625 * math.log(4 / 3)),  # p = 3/4
        (math.log(3), 0.0, 0.75 * 0.5625 * math.log(4)),
        (0.0, 0.5, 0.5 * 0.25 * math.log(2)),  # a cell half covered lies between the two
    ],
)
def test_focal_loss_of_one_cell(logit, target, expected):
    assert focal_loss(grid([logit]), grid([target])).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_is_the_mean_over_cells():
    logits, target = grid([0.0, 0.0], [0.0, 0.0]), grid([1.0, 0.0], [0.0, 0.0])
    expected = (0.25 + 3 * 0.75) / 4 * 0.25 * math.log(2)
    assert focal_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_dice_loss_by_hand():
    logits, target = grid([SURE, SURE], [-SURE, -SURE]), grid([1.0, 0.0], [0.0, 0.0])
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 1 + 1))
    halves = grid([0.0, 0.0], [0.0, 0.0])  # every probability is one half
    assert dice_loss(halves, target).item() == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1 + 1))


def test_cross_entropy_by_hand():
    logits, target = grid([0.0, math.log(3)], [math.log(3), 0.0]), grid([1.0, 1.0], [0.0, 0.0])
    expected = (math.log(2) + math.log(4 / 3) + math.log(4) + math.log(2)) / 4
    assert cross_entropy_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_balanced_cross_entropy_weighs_foreground_and_background_alike():
    logits, target = grid([0.0, math.log(3)], [math.log(3), math.log(3)]), grid([1.0, 0.0], [0.0, 0.0])
    expected = math.log(2) / 2 + math.log(4) / 2
    assert balanced_cross_entropy_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)
    nothing = torch.zeros_like(target)
    background = (math.log(2) + 3 * math.log(4)) / 4
    assert balanced_cross_entropy_loss(logits, nothing).item() == pytest.approx(background / 2, rel=1e-5)


def test_true_iou_by_hand():
    logits = torch.tensor([[[[1.0, 1.0], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]], [[1.0, 0.0], [1.0, 1.0]]]])
    target = grid([1.0, 0.4], [0.5, 0.0])  # cut at one half: the left column
    assert true_iou(logits, target).tolist() == [pytest.approx([1 / 3, 0, 2 / 3])]
    assert true_iou(logits, torch.zeros_like(target)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_losses_are_weighted_and_summed(name):
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 4, generator=generator), torch.rand(2, 4, 4, generator=generator)
    off = {"focal": 0.0, "dice": 0.0}
    alone = mask_losses(logits, target, LossWeights(**(off | {name: 2.0})))
    assert alone.shape == (2, 3)
    for row in range(2):
        for output in range(3):
            expected = 2 * MASK_LOSSES[name](logits[row, output], target[row])
            assert alone[row, output].item() == pytest.approx(expected.item(), rel=1e-5)
    both = mask_losses(logits, target, LossWeights(**(off | {name: 2.0, "dice": 1.0 + 2.0 * (name == "dice")})))
    extra = MASK_LOSSES["dice"](logits, target[:, None].expand_as(logits))
    torch.testing.assert_close(both - alone, extra)


def test_the_papers_weights():
    logits, target = torch.randn(2, 3, 4, 4), torch.rand(2, 4, 4)
    each = target[:, None].expand_as(logits)
    torch.testing.assert_close(
        mask_losses(logits, target, LossWeights()), 20 * focal_loss(logits, each) + dice_loss(logits, each)
    )
    assert LossWeights().iou == 1.0


some_logits = arrays(np.float32, (3, 5, 5), elements=st.floats(-1000, 1000, width=32))
some_targets = arrays(np.float32, (5, 5), elements=st.floats(0, 1, width=32))


@given(some_logits, some_targets)
def test_losses_and_gradients_stay_finite(logits, target):
    logits = torch.from_numpy(logits)[None].requires_grad_()
    target = torch.from_numpy(target)[None]
    every = LossWeights(focal=1.0, dice=1.0, cross_entropy=1.0, balanced_cross_entropy=1.0)
    losses = mask_losses(logits, target, every)
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert (losses >= -1e-6).all()
    assert torch.isfinite(logits.grad).all()


@given(arrays(bool, (5, 5)).filter(np.any))
def test_the_right_answer_costs_nothing(mask):
    target = torch.from_numpy(mask).float()[None]
    right = ((target * 2 - 1) * SURE)[:, None]
    every = LossWeights(focal=1.0, dice=1.0, cross_entropy=1.0, balanced_cross_entropy=1.0)
    assert mask_losses(right, target, every).item() == pytest.approx(0, abs=1e-5)
    assert mask_losses(-right, target, every).item() > 1
    loss, iou = segmentation_loss(right, torch.ones(1, 1), target, every)
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert iou.item() == 1


def test_only_the_best_output_of_each_mask_learns_from_it():
    target = torch.zeros(2, 4, 4)
    target[:, :2] = 1
    right = (target[0] * 2 - 1).expand(2, 3, 4, 4)
    scale = torch.tensor([[-1.0, 0.5, 0.1], [2.0, 1.0, -3.0]])  # the largest answers best
    logits = (right * scale[..., None, None]).requires_grad_()
    predicted = torch.full((2, 3), 0.5, requires_grad=True)
    loss, iou = segmentation_loss(logits, predicted, target, LossWeights())
    loss.backward()
    learns = logits.grad.flatten(2).abs().sum(dim=2) > 0
    assert learns.tolist() == [[False, True, False], [True, False, False]]
    assert iou.tolist() == [[0, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("counted", "expected", "gradient"),
    [({"iou": 3.0}, 3 * (0.5**2 + 0.2**2) / 2, [-1.5, 0.6]), ({"iou_absolute": 3.0}, 3 * 0.7 / 2, [-1.5, 1.5])],
)
def test_every_output_learns_its_iou(counted: dict[str, float], expected: float, gradient: list[float]):
    target = torch.zeros(1, 4, 4)
    target[:, :2] = 1
    logits = torch.stack([target * 2 - 1, 1 - target * 2], dim=1).requires_grad_()
    predicted = torch.tensor([[0.5, 0.2]], requires_grad=True)
    with_iou, iou = segmentation_loss(logits, predicted, target, LossWeights(**{"iou": 0.0} | counted))
    without, _ = segmentation_loss(logits, predicted, target, LossWeights(iou=0.0))
    assert iou.tolist() == [[1, 0]]
    assert (with_iou - without).item() == pytest.approx(expected)
    with_iou.backward()
    assert predicted.grad[0].tolist() == pytest.approx(gradient)
    assert not iou.requires_grad


def test_the_loss_is_the_mean_over_masks():
    generator = torch.Generator().manual_seed(1)
    logits, target = torch.randn(4, 3, 4, 4, generator=generator), torch.rand(4, 4, 4, generator=generator)
    predicted = torch.rand(4, 3, generator=generator)
    whole, iou = segmentation_loss(logits, predicted, target, LossWeights())
    parts = [
        segmentation_loss(logits[rows], predicted[rows], target[rows], LossWeights())[0]
        for rows in (slice(0, 2), slice(2, 4))
    ]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts) / 2, rel=1e-5)
    assert iou.shape == (4, 3)


def two_objects():
    """An embedding in which two objects have features of their own, and their masks at twice its size."""
    embedding = torch.zeros(1, 3, 4, 4)
    embedding[0, 0, :2], embedding[0, 1, 2:] = 1.0, 1.0
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 4:] = True, True
    halves = (torch.arange(4) % 2 == 0).expand(2, 4, 4)
    return embedding, masks, torch.zeros(2, dtype=torch.long), halves


def test_halves_that_find_each_other_cost_nothing():
    embedding, masks, index, halves = two_objects()
    # By hand: the cosines are 1 with the own other half and 0 with the other object's, over a temperature of 0.1.
    expected = math.log(1 + math.exp(-10))
    assert contrastive_loss(embedding, masks, index, halves).item() == pytest.approx(expected, rel=1e-3)


def test_objects_that_look_alike_cost_a_guess():
    _, masks, index, halves = two_objects()
    alike = contrastive_loss(torch.ones(1, 3, 4, 4), masks, index, halves)
    assert alike.item() == pytest.approx(math.log(2), rel=1e-4)


def test_the_same_object_twice_is_not_its_own_rival():
    embedding, masks, index, halves = two_objects()
    twice = contrastive_loss(embedding, torch.cat([masks, masks[:1]]), torch.zeros(3).long(), halves[[0, 1, 0]])
    once = contrastive_loss(embedding, masks, index, halves)
    assert twice.item() < 2 * once.item()
    in_another_image = torch.tensor([0, 0, 1])
    rival = contrastive_loss(
        embedding.expand(2, -1, -1, -1), torch.cat([masks, masks[:1]]), in_another_image, halves[[0, 1, 0]]
    )
    assert rival.item() > 10 * once.item()
