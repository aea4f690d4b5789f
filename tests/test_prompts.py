import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anymask.errors import AnymaskError, PromptError
from anymask.prompts import PointLabel, Prompt, check_prompt

HEIGHT, WIDTH = SIZE_HW = (40, 60)
LOGITS_HW = (24, 32)
FULL_MASK = np.ones(SIZE_HW, dtype=bool)
SOME_MASK = np.zeros(SIZE_HW, dtype=bool)
SOME_MASK[10:20, 30:45] = True


def check(**fields):
    return check_prompt(Prompt(**fields), SIZE_HW, LOGITS_HW)


# What is given, and what the message must hold: the argument, its value, what is allowed.
BAD_PROMPTS = {
    "nothing": ({}, ["empty", "points=", "box=", "mask=", "mask_logits="]),
    "only a choice": ({"multimask": True}, ["empty"]),
    "only a valid mask": ({"valid_mask": FULL_MASK}, ["empty"]),
    "point right of the image": ({"points": [[60, 5]]}, ["points", "[60.0, 5.0]", "x < 60", "y < 40"]),
    "point below the image": ({"points": [[5, 40]]}, ["points", "[5.0, 40.0]", "y < 40"]),
    "negative point": ({"points": [[5, 5], [-0.5, 3]]}, ["points", "[-0.5, 3.0]", "0 <= x"]),
    "NaN point": ({"points": [[5, np.nan]]}, ["points", "nan", "NaN", "(N, 2)"]),
    "infinite point": ({"points": [[np.inf, 5]]}, ["points", "inf", "(N, 2)"]),
    "no points": ({"points": []}, ["points=[]", "(0,)", "(N, 2)"]),
    "no points of two": ({"points": np.zeros((0, 2))}, ["points=[]", "(0, 2)", "(N, 2)"]),
    "one flat point": ({"points": [5, 5]}, ["points=[5, 5]", "(2,)", "(N, 2)"]),
    "points in space": ({"points": [[5, 5, 5]]}, ["points", "(1, 3)", "(N, 2)"]),
    "ragged points": ({"points": [[5, 5], [5]]}, ["points=[[5, 5], [5]]", "(N, 2)"]),
    "words": ({"points": [["left", "top"]]}, ["points=[['left', 'top']]", "not numbers"]),
    "labels alone": ({"labels": [1]}, ["labels=[1]", "without points"]),
    "labels beside a box": ({"labels": [1], "box": [1, 1, 9, 9]}, ["labels=[1]", "without points"]),
    "too few labels": ({"points": [[1, 1], [2, 2]], "labels": [1]}, ["labels=[1]", "(1,)", "2 points"]),
    "one bare label": ({"points": [[1, 1]], "labels": 1}, ["labels=1", "1 points", "one label per point"]),
    "label 2": ({"points": [[1, 1]], "labels": [2]}, ["labels=[2]", "1 (foreground)", "0 (background)"]),
    "label -1": ({"points": [[1, 1]], "labels": [-1]}, ["labels=[-1]", "1 (foreground)"]),
    "half a label": ({"points": [[1, 1]], "labels": [0.5]}, ["labels=[0.5]", "0 (background)"]),
    "NaN label": ({"points": [[1, 1]], "labels": [np.nan]}, ["labels", "nan", "0 or 1"]),
    "box of three": ({"box": [1, 2, 3]}, ["box=[1, 2, 3]", "(3,)", "x0, y0, x1, y1"]),
    "list of boxes": ({"box": [[1, 2, 3, 4]]}, ["box=[[1, 2, 3, 4]]", "(1, 4)", "x0, y0, x1, y1"]),
    "NaN box": ({"box": [1, 2, np.nan, 4]}, ["box", "nan", "x0 < x1"]),
    "box without width": ({"box": [5, 2, 5, 9]}, ["box=[5, 2, 5, 9]", "no area", "x0 < x1"]),
    "box inside out": ({"box": [9, 9, 2, 2]}, ["box=[9, 9, 2, 2]", "no area", "y0 < y1"]),
    "box to the right": ({"box": [60, 5, 80, 9]}, ["box=[60, 5, 80, 9]", "outside", "(0, 0, 60, 40)"]),
    "box above": ({"box": [5, -20, 30, 0]}, ["box=[5, -20, 30, 0]", "outside", "(0, 0, 60, 40)"]),
    "transposed mask": ({"mask": SOME_MASK.T}, ["mask", "(60, 40)", "(40, 60)"]),
    "mask with channels": ({"mask": SOME_MASK[..., None]}, ["mask", "(40, 60, 1)", "(40, 60)"]),
    "ragged mask": ({"mask": [[1, 0], [1]]}, ["mask=[[1, 0], [1]]", "(40, 60)"]),
    "empty mask": ({"mask": np.zeros(SIZE_HW, bool)}, ["mask is empty", "at least one pixel"]),
    "faint mask": ({"mask": np.full(SIZE_HW, 100)}, ["mask is empty", "0 to 255"]),
    "negative mask": ({"mask": np.where(SOME_MASK, -1, 0)}, ["mask", "-1 to 0", "0 to 255"]),
    "large mask": ({"mask": 256 * SOME_MASK}, ["mask", "0 to 256", "0 to 255"]),
    "NaN mask": ({"mask": np.where(SOME_MASK, np.nan, 0)}, ["mask", "NaN", "0 to 255"]),
    "mask of words": ({"mask": np.full(SIZE_HW, "x")}, ["mask", "not numbers"]),
    "two rough masks": (
        {"mask": SOME_MASK, "mask_logits": np.zeros(LOGITS_HW)},
        ["mask and mask_logits", "one rough mask"],
    ),
    "all three logits": (
        {"mask_logits": np.zeros((3, *LOGITS_HW))},
        ["mask_logits", "(3, 24, 32)", "(24, 32)"],
    ),
    "full-size logits": ({"mask_logits": np.zeros(SIZE_HW)}, ["mask_logits", "(40, 60)", "(1, 24, 32)"]),
    "NaN logits": ({"mask_logits": np.full(LOGITS_HW, np.nan)}, ["mask_logits", "NaN", "(24, 32)"]),
    "small valid mask": (
        {"points": [[1, 1]], "valid_mask": np.ones((4, 6), bool)},
        ["valid_mask", "(4, 6)", "(40, 60)"],
    ),
    "empty valid mask": (
        {"points": [[1, 1]], "valid_mask": np.zeros(SIZE_HW, bool)},
        ["valid_mask is empty", "at least one pixel"],
    ),
    "click outside the valid mask": (
        {"points": [[35, 12], [29.9, 12]], "valid_mask": SOME_MASK},
        ["points", "[29.9, 12]", "outside valid_mask"],
    ),
}


@pytest.mark.parametrize(("fields", "words"), BAD_PROMPTS.values(), ids=BAD_PROMPTS)
def test_what_cannot_be_answered_says_why(fields, words):
    with pytest.raises(PromptError) as caught:
        check(**fields)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert len(message) < 400
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AnymaskError)


def test_a_long_value_is_shortened():
    with pytest.raises(PromptError, match=r"\.\.\.") as caught:
        check(points=np.full((5000, 2), 1e6))
    assert len(str(caught.value)) < 300


def test_a_point():
    checked = check(points=[[12.25, 7]])
    assert checked.points_xy.tolist() == [[12.25, 7], [0, 0]]
    assert checked.labels.tolist() == [PointLabel.FOREGROUND, PointLabel.NOT_A_POINT]
    assert checked.mask_hw is None
    assert checked.mask_logits_hw is None
    assert checked.valid_hw is None


def test_points_with_a_box():
    checked = check(points=[[12, 7], [3, 4]], labels=[0, 1], box=[2, 3, 20, 30])
    assert checked.points_xy.tolist() == [[12, 7], [3, 4], [2, 3], [20, 30]]
    assert checked.labels.tolist() == [0, 1, PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT]


def test_lists_arrays_and_tensors_say_the_same():
    prompts = [
        check(points=kind([[12, 7]]), labels=kind([0]), box=kind([2.0, 3.0, 20.0, 30.0]))
        for kind in (list, tuple, np.array, torch.tensor)
    ]
    for checked in prompts:
        np.testing.assert_array_equal(checked.points_xy, prompts[0].points_xy)
        np.testing.assert_array_equal(checked.labels, prompts[0].labels)


def test_corner_pixels_are_inside():
    check(points=[[0, 0], [WIDTH - 1, HEIGHT - 1], [WIDTH - 0.01, HEIGHT - 0.01]])


numbers = st.floats(-100, 100)


@given(numbers, numbers, numbers, numbers)
def test_a_box_is_clipped_or_refused(x0, y0, x1, y1):
    is_good = max(x0, 0) < min(x1, WIDTH) and max(y0, 0) < min(y1, HEIGHT)
    if is_good:
        corners = check(box=[x0, y0, x1, y1]).points_xy
        expected = [[max(x0, 0), max(y0, 0)], [min(x1, WIDTH), min(y1, HEIGHT)]]
        np.testing.assert_array_equal(corners, expected)
    else:
        with pytest.raises(PromptError, match="box="):
            check(box=[x0, y0, x1, y1])


@given(numbers, numbers)
def test_a_point_is_inside_or_refused(x, y):
    if 0 <= x < WIDTH and 0 <= y < HEIGHT:
        assert check(points=[[x, y]]).points_xy[0].tolist() == [x, y]
    else:
        with pytest.raises(PromptError, match="points="):
            check(points=[[x, y]])


@pytest.mark.parametrize(
    "mask",
    [
        SOME_MASK,
        SOME_MASK.tolist(),
        SOME_MASK.astype(np.uint8),
        SOME_MASK.astype(np.uint8) * 255,
        np.where(SOME_MASK, 128, 127),
        np.where(SOME_MASK, 0.6, 0.4),
        torch.from_numpy(SOME_MASK),
    ],
    ids=["bool", "list", "0 and 1", "0 and 255", "around one half", "probability", "tensor"],
)
def test_masks_of_any_range_are_cut_at_one_half(mask):
    checked = check(points=[[1, 1]], mask=mask)
    assert checked.mask_hw.dtype == bool
    np.testing.assert_array_equal(checked.mask_hw, SOME_MASK)


def test_a_mask_alone_brings_its_box():
    checked = check(mask=SOME_MASK)
    assert checked.points_xy.tolist() == [[30, 10], [45, 20]]
    assert checked.labels.tolist() == [PointLabel.BOX_TOP_LEFT, PointLabel.BOX_BOTTOM_RIGHT]


def test_logits_alone_bring_no_box():
    checked = check(mask_logits=np.ones((1, *LOGITS_HW)))
    assert checked.labels.tolist() == [PointLabel.NOT_A_POINT]
    assert checked.mask_logits_hw.shape == LOGITS_HW
    assert checked.mask_logits_hw.dtype == np.float32


def test_background_clicks_may_lie_outside_the_valid_mask():
    checked = check(points=[[35, 12], [1, 1]], labels=[1, 0], valid_mask=SOME_MASK)
    np.testing.assert_array_equal(checked.valid_hw, SOME_MASK)


@pytest.mark.parametrize(
    ("fields", "is_multimask"),
    [
        ({"points": [[1, 1]]}, True),
        ({"points": [[1, 1]], "labels": [0]}, True),
        ({"box": [1, 1, 9, 9]}, True),
        ({"points": [[1, 1], [2, 2]]}, False),
        ({"points": [[1, 1]], "box": [1, 1, 9, 9]}, False),
        ({"points": [[1, 1]], "mask": SOME_MASK}, False),
        ({"box": [1, 1, 9, 9], "mask": SOME_MASK}, False),
        ({"box": [1, 1, 9, 9], "mask_logits": np.ones(LOGITS_HW)}, False),
        ({"points": [[1, 1]], "mask_logits": np.ones(LOGITS_HW)}, False),
        ({"mask": SOME_MASK}, False),
        ({"mask_logits": np.ones(LOGITS_HW)}, False),
    ],
)
def test_three_answers_for_a_lone_point_or_box_alone(fields, is_multimask):
    assert check(**fields).is_multimask is is_multimask
    assert check(**fields, valid_mask=FULL_MASK).is_multimask is is_multimask
    assert check(**fields, multimask=True).is_multimask is True
    assert check(**fields, multimask=False).is_multimask is False
