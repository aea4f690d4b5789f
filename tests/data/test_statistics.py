import json

import numpy as np
import pytest
from hypothesis import given
from made_up import datasets

from anymask.data.annotated import AnnotatedImage
from anymask.data.formats import read_dataset
from anymask.data.statistics import CENTRE_CELLS, collect_statistics, histogram
from anymask.records import MaskRecord


def test_known_figures():
    full, corner, empty = np.ones((8, 16), bool), np.zeros((8, 16), bool), np.zeros((8, 16), bool)
    corner[0:4, 0:1] = corner[3:4, 0:4] = True  # an L: 7 pixels, hull 4x4 less half of 3x3
    records = [MaskRecord.from_mask(n, mask, category=c) for n, mask, c in ((1, full, "a"), (2, corner, "a"))]
    images = [
        AnnotatedImage("a.jpg", (8, 16), (*records, MaskRecord.from_mask(3, empty))),
        AnnotatedImage("b.jpg", (4, 4)),
    ]
    statistics = collect_statistics(images)
    assert statistics.masks_per_image.tolist() == [3, 0]
    assert statistics.empty_masks == 1
    assert statistics.relative_sizes == pytest.approx([1, np.sqrt(7 / 128)])
    assert statistics.concavities == pytest.approx([0, 1 - 7 / 11.5])
    assert statistics.categories == {"a": 2, None: 1}
    assert statistics.group_shares() == {"0-10": 1, "11-50": 0, "51-100": 0, "101-200": 0, "201+": 0}
    # The whole image's centre, and that of the L at x = 19/14, y = 35/14 pixels.
    assert np.argwhere(statistics.centres).tolist() == [
        [int(35 / 14 / 8 * CENTRE_CELLS), int(19 / 14 / 16 * CENTRE_CELLS)],
        [CENTRE_CELLS // 2, CENTRE_CELLS // 2],
    ]


def test_the_papers_groups():
    mask = np.ones((1, 1), bool)
    images = [
        AnnotatedImage("a.jpg", (1, 1), tuple(MaskRecord.from_mask(n, mask) for n in range(count)))
        for count in (0, 10, 11, 50, 51, 100, 101, 200, 201, 500)
    ]
    assert list(collect_statistics(images).group_shares().values()) == [0.2] * 5


@given(datasets())
def test_any_masks_give_figures_in_their_range(images):
    statistics = collect_statistics(images)
    facts = json.loads(json.dumps(statistics.to_json(), allow_nan=False))
    masks = sum(len(image.records) for image in images)
    assert (facts["images"], facts["masks"]) == (len(images), masks)
    assert sum(facts["categories"].values()) == masks
    assert np.sum(facts["centres"]) == len(statistics.relative_sizes) == masks - facts["empty_masks"]
    assert ((statistics.relative_sizes > 0) & (statistics.relative_sizes <= 1)).all()
    assert ((statistics.concavities >= 0) & (statistics.concavities < 1)).all()


def test_histograms_hold_every_value():
    bins = histogram(np.array([0, 0.05, 0.5, 1]))
    assert bins["edges"][0] == 0
    assert bins["edges"][-1] == 1
    assert [index for index, share in enumerate(bins["shares"]) if share] == [0, 1, 10, 19]
    assert histogram(np.array([]))["shares"] == [0] * 20


@pytest.mark.shared
def test_real_figures(shared_data):
    statistics = collect_statistics(read_dataset(shared_data / "wbc" / "zeroshot"))
    assert statistics.masks_per_image.tolist() == [2] * 100
    assert statistics.centres.sum() == 200
    assert statistics.concavities.mean() < 0.1  # cells and nuclei are round
