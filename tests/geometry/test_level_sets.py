import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anymask.geometry import level_sets
from anymask.geometry.level_sets import count_above, runs_above
from anymask.geometry.resize import fit_frame, logits_to_original
from anymask.geometry.rle import decode_rle

LONGEST = 64
sides = st.integers(1, 150)


def some_logits(cells_hw: tuple[int, int], seed: int, share: float, spread: float = 3.0) -> np.ndarray:
    """Noise at a share of the cells, above everything or below it elsewhere."""
    rng = np.random.default_rng(seed)
    ground = rng.choice([-5.0, 5.0])
    return np.where(rng.random(cells_hw) < share, rng.normal(0, spread, cells_hw), ground).astype(np.float32)


@given(
    height=sides,
    width=sides,
    pad_multiple=st.sampled_from([None, 16]),
    seed=st.integers(0, 2**20),
    share=st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    level=st.sampled_from([-1.0, 0.0, 1.0]),
    pixels_at_once=st.sampled_from([1, 400, 1 << 17]),
)
def test_runs_and_counts_are_those_of_the_drawn_logits(height, width, pad_multiple, seed, share, level, pixels_at_once):
    frame = fit_frame((height, width), LONGEST, pad_multiple)
    logits = some_logits((frame.padded_hw[0] // 4, frame.padded_hw[1] // 4), seed, share)
    drawn = logits_to_original(logits[None], frame)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(level_sets, "PIXELS_AT_ONCE", pixels_at_once)
        runs = runs_above(logits, frame, level)
        counts = count_above(logits, frame, (1.0, level, -1.0))
    is_above = decode_rle(runs.rle)
    is_close = np.abs(drawn - level) < 1e-5
    assert (is_above == (drawn > level))[~is_close].all()
    assert runs.area == counts[1] == is_above.sum()
    for count, other in zip(counts, (1.0, level, -1.0), strict=True):
        assert abs(count - (drawn > other).sum()) <= (np.abs(drawn - other) < 1e-5).sum()


@given(st.integers(0, 2**20), st.sampled_from([(3, 200), (200, 3), (9, 11), (1, 1)]))
def test_an_image_with_fewer_pixels_than_logits(seed, size_hw):
    frame = fit_frame(size_hw, 512, None)
    logits = some_logits((128, 128), seed, 1.0)
    drawn = logits_to_original(logits[None], frame)[0]
    is_above = decode_rle(runs_above(logits, frame).rle)
    assert (is_above == (drawn > 0))[np.abs(drawn) > 1e-5].all()


def test_a_mask_that_touches_every_border():
    frame = fit_frame((100, 130), LONGEST, 16)
    logits = np.full((frame.padded_hw[0] // 4, frame.padded_hw[1] // 4), 4.0, np.float32)
    runs = runs_above(logits, frame)
    assert len(runs.starts) == 130
    assert runs.box_xyxy == (0, 0, 130, 100)
    assert runs.area == 13_000
    assert runs_above(-logits, frame).area == 0
    assert count_above(logits, frame, (5.0, 3.0)) == [0, 13_000]
