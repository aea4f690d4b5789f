import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anymask.geometry.points import mask_centre_xy
from anymask.prompts import PointLabel
from anymask.training.clicks import (
    Annotator,
    ClickSchedule,
    Draws,
    correction_clicks,
    first_prompts,
    noisy_boxes,
    sample_clicks,
    sample_pixels,
)

seeds = st.integers(0, 2**40)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
regions = sizes.flatmap(lambda shape: arrays(bool, shape)).map(torch.from_numpy)
pairs = sizes.flatmap(lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape)))


def values_at(masks, points):
    """What each of masks (B, H, W) holds at its point of points (B, 2) x, y."""
    x, y = points.long().unbind(1)
    return masks[torch.arange(len(masks)), y, x]


@given(regions, seeds)
def test_a_sampled_pixel_lies_in_its_region(region, seed):
    points = sample_pixels(region, Draws(seed))
    assert points.shape == (len(region), 2)
    assert (points == points.round()).all()
    limit = torch.tensor([region.shape[2], region.shape[1]])
    assert ((points >= 0) & (points < limit)).all()
    assert (values_at(region, points) == region.flatten(1).any(dim=1)).all()


def test_sampling_is_uniform():
    region = torch.zeros(7, 9, dtype=torch.bool)
    region[0, 0] = region[6, 8] = region[2:4, 1:6] = True
    draws = 13_000
    points = sample_pixels(region.expand(draws, -1, -1), Draws(0)).long()
    counts = torch.zeros(7, 9)
    counts.index_put_((points[:, 1], points[:, 0]), torch.ones(draws), accumulate=True)
    assert (counts[~region] == 0).all()
    expected = draws / int(region.sum())
    chi_square = ((counts[region] - expected) ** 2 / expected).sum().item()
    assert chi_square < 31  # 11 degrees of freedom: one in a thousand draws exceeds 31


def test_the_last_pixel_of_a_large_region_can_be_drawn():
    """Ranks of a 1024 x 1024 mask stay exact in single precision."""
    region = torch.ones(1, 1024, 1024, dtype=torch.bool)

    class Largest(Draws):
        def uniform(self, rows, *shape):
            return torch.full((rows, *shape), 1 - 2**-24)

    assert sample_pixels(region, Largest(0)).tolist() == [[1023, 1023]]


@given(pairs, seeds)
def test_corrections_lie_where_the_answer_was_wrong(pair, seed):
    truth, predicted = map(torch.from_numpy, pair)
    truth[:, 0, 0] = True  # training masks are never empty
    points, labels = correction_clicks(truth, predicted, Draws(seed))
    assert points.shape == (len(truth), 1, 2)
    assert labels.shape == (len(truth), 1)
    missed, too_much = truth & ~predicted, predicted & ~truth
    for row, (point, label) in enumerate(zip(points[:, 0].long().tolist(), labels[:, 0].tolist(), strict=True)):
        x, y = point
        if missed[row].any() or too_much[row].any():
            assert (missed if label == PointLabel.FOREGROUND else too_much)[row, y, x]
        else:
            assert label == PointLabel.FOREGROUND
            assert truth[row, y, x]


def test_corrections_are_uniform_over_both_kinds_of_error():
    truth = torch.zeros(6, 8, dtype=torch.bool)
    predicted = torch.zeros(6, 8, dtype=torch.bool)
    truth[1:4, 1:5] = True
    predicted[2:6, 3:6] = True  # 8 missed, 8 too much
    draws = 16_000
    shape = (draws, -1, -1)
    points, labels = correction_clicks(truth.expand(shape), predicted.expand(shape), Draws(1))
    error = truth ^ predicted
    x, y = points[:, 0].long().unbind(1)
    counts = torch.zeros(6, 8).index_put_((y, x), torch.ones(draws), accumulate=True)
    assert (counts[~error] == 0).all()
    expected = draws / int(error.sum())
    assert ((counts[error] - expected) ** 2 / expected).sum().item() < 38  # 15 degrees of freedom, 0.1%
    assert labels.float().mean().item() == pytest.approx(0.5, abs=0.02)


@given(regions, seeds)
def test_the_first_prompt_is_a_point_in_the_mask_or_a_box_around_it(masks, seed):
    masks = masks.clone()
    masks[:, -1, -1] = True
    points, labels = first_prompts(masks, Draws(seed))
    assert points.shape == (len(masks), 2, 2)
    height, width = masks.shape[1:]
    for mask, point, label in zip(masks, points, labels.tolist(), strict=True):
        if label == [PointLabel.FOREGROUND, PointLabel.NOT_A_POINT]:
            x, y = point[0].long().tolist()
            assert mask[y, x]
        else:
            assert label == [PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT]
            assert (point >= 0).all()
            assert (point <= torch.tensor([width, height])).all()


def test_half_of_the_first_prompts_are_boxes():
    masks = torch.ones(1, 4, 4, dtype=torch.bool).expand(4000, -1, -1)
    _, labels = first_prompts(masks, Draws(0))
    share = (labels[:, 0] == PointLabel.BOX_TOP_LEFT).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.03)


def square(top, left, bottom, right, side):
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def test_box_noise_is_a_tenth_of_the_side():
    masks = square(40, 50, 60, 150, 200).expand(1500, -1, -1)  # 100 wide, 20 high, far from the border
    noise = noisy_boxes(masks, Draws(0)) - torch.tensor([[50.0, 40.0], [150.0, 60.0]])
    assert noise.mean().abs().item() < 0.5
    spread = noise.std(dim=0)
    np.testing.assert_allclose(spread[:, 1], 2, rtol=0.1)
    np.testing.assert_allclose(spread[:, 0], 9.6, rtol=0.1)  # 10, cut off at twice that
    correlation = np.corrcoef(noise.flatten(1).T.numpy()) - np.eye(4)
    assert np.abs(correlation).max() < 0.1  # each coordinate has its own noise


def test_box_noise_is_at_most_twenty_pixels():
    masks = square(30, 30, 430, 430, 460).expand(200, -1, -1)
    noise = noisy_boxes(masks, Draws(0)) - torch.tensor([[30.0, 30.0], [430.0, 430.0]])
    assert noise.abs().max().item() == pytest.approx(20)
    assert (noise.abs() > 19.99).float().mean().item() == pytest.approx(0.617, abs=0.06)  # |z| > 0.5


def test_noisy_boxes_stay_inside_the_image():
    masks = square(0, 0, 100, 100, 100).expand(200, -1, -1)
    boxes = noisy_boxes(masks, Draws(0))
    assert boxes.min().item() == 0
    assert boxes.max().item() == 100
    assert (boxes[:, 1] > boxes[:, 0]).all()


def test_boxes_without_noise_are_tight(monkeypatch):
    monkeypatch.setattr("anymask.training.clicks.BOX_NOISE", 0.0)
    masks = torch.stack([square(3, 5, 10, 7, 12), square(0, 0, 12, 12, 12), square(11, 11, 12, 12, 12)])
    expected = [[[5, 3], [7, 10]], [[0, 0], [12, 12]], [[11, 11], [12, 12]]]
    assert noisy_boxes(masks, Draws(0)).tolist() == expected


@given(seeds)
def test_the_papers_schedule_has_two_rounds_without_a_new_point(seed):
    brings_point = ClickSchedule(rounds=11, mask_only_rounds=2).draw(Draws(seed))
    assert len(brings_point) == 10
    assert brings_point.count(False) == 2
    assert brings_point[-1] is False


def test_the_other_such_round_is_anywhere():
    places = [ClickSchedule().draw(Draws(seed)).index(False) for seed in range(300)]
    assert set(places) == set(range(9))


@pytest.mark.parametrize(
    ("rounds", "mask_only", "expected"),
    [(1, 2, []), (2, 2, [False]), (2, 1, [True]), (3, 2, [False, False]), (4, 0, [True, True, True])],
)
def test_short_schedules(rounds, mask_only, expected):
    assert ClickSchedule(rounds, mask_only).draw(Draws(0)) == expected


def test_one_round_without_a_new_point_is_anywhere():
    schedule = ClickSchedule(rounds=5, mask_only_rounds=1)
    drawn = [schedule.draw(Draws(seed)) for seed in range(100)]
    assert all(brings_point.count(False) == 1 for brings_point in drawn)
    assert {brings_point.index(False) for brings_point in drawn} == {0, 1, 2, 3}


def all_clicks(masks, predicted, draws):
    """One of everything that is drawn for a step."""
    points, labels = first_prompts(masks, draws)
    schedule = ClickSchedule().draw(draws)
    return points, labels, torch.tensor(schedule), *correction_clicks(masks, predicted, draws)


@given(seeds)
def test_the_same_seed_makes_the_same_clicks(seed):
    masks = torch.rand(6, 20, 20, generator=torch.Generator().manual_seed(0)) < 0.4
    first = all_clicks(masks, ~masks, Draws(seed))
    again = all_clicks(masks, ~masks, Draws(seed))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = all_clicks(masks, ~masks, Draws(seed + 1))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@given(seeds, st.sampled_from([2, 3, 6]))
def test_many_processes_make_the_clicks_that_one_makes(seed, world_size):
    masks = torch.rand(6, 20, 20, generator=torch.Generator().manual_seed(0)) < 0.4
    whole = all_clicks(masks, ~masks, Draws(seed))
    parts = [
        all_clicks(share, ~share, Draws(seed, rank, world_size)) for rank, share in enumerate(masks.chunk(world_size))
    ]
    for index in (0, 1, 3, 4):
        assert torch.equal(whole[index], torch.cat([part[index] for part in parts]))
    assert all(torch.equal(whole[2], part[2]) for part in parts)


@given(regions, seeds)
def test_an_annotator_who_clicks_centres_clicks_where_the_benchmark_does(masks, seed):
    masks = masks.clone()
    masks[:, 0, 0] = True
    centres = [list(mask_centre_xy(mask.numpy())) for mask in masks]
    assert sample_clicks(masks, Draws(seed), Annotator(centre_share=1.0)).tolist() == centres
    nothing = torch.zeros_like(masks)
    points, labels = correction_clicks(masks, nothing, Draws(seed), Annotator(centre_share=1.0))
    assert points[:, 0].tolist() == centres
    assert (labels == 1).all()


def test_half_of_the_clicks_go_to_the_centre():
    masks = square(20, 20, 80, 80, 100).expand(2000, -1, -1)
    points = sample_clicks(masks, Draws(0), Annotator(centre_share=0.5))
    centre = torch.tensor(mask_centre_xy(masks[0].numpy()))
    assert (points == centre).all(dim=1).float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_a_steady_hand_draws_tighter_boxes():
    masks = square(40, 50, 60, 150, 200).expand(1500, -1, -1)
    exact = torch.tensor([[50.0, 40.0], [150.0, 60.0]])
    shaky, steady = (
        (noisy_boxes(masks, Draws(0), Annotator(has_steady_hand=is_steady)) - exact).abs()
        for is_steady in (False, True)
    )
    assert steady.mean().item() == pytest.approx(shaky.mean().item() / 2, rel=0.1)
    nearly_exact = (steady < 1).flatten(1).all(dim=1).float().mean().item()
    assert nearly_exact > 0.05
