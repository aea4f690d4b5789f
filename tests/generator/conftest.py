"""A model whose answers are blobs."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from anymask.model.segmenter import Segmenter


@pytest.fixture(scope="session")
def blob_model(random_tiny: Segmenter) -> Segmenter:
    """A model that answers a click with three ragged, speckled blobs around it, of sizes and scores by the place.

    What random weights answer is noise all over the image, which leaves nothing to choose between.
    """
    from blobs import draw_blobs

    model = deepcopy(random_tiny)
    model.decode = draw_blobs  # type: ignore[method-assign]
    return model
