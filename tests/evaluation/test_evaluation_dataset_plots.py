import sys

import numpy as np
import pytest
from PIL import Image

from anymask.data.statistics import CENTRE_CELLS, DatasetStatistics
from anymask.errors import AnymaskError
from anymask.evaluation.dataset_plots import plot_dataset


def statistics(rng, masks):
    return DatasetStatistics(
        masks_per_image=np.array([masks]),
        relative_sizes=rng.random(masks),
        concavities=rng.random(masks) / 2,
        centres=rng.integers(0, 5, (CENTRE_CELLS, CENTRE_CELLS)) * (masks > 0),
        categories={None: masks},
        empty_masks=0,
    )


@pytest.mark.parametrize("masks", [0, 1, 300])
def test_a_picture_is_drawn(tmp_path, rng, masks):
    pytest.importorskip("matplotlib")
    plot_dataset(statistics(rng, masks), tmp_path / "x.png", "a set")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (1500, 1125)
        assert len(np.unique(np.array(picture.convert("L")))) > 50
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_without_matplotlib_it_says_what_to_install(tmp_path, rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AnymaskError, match="matplotlib"):
        plot_dataset(statistics(rng, 3), tmp_path / "x.png")
