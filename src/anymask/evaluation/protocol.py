"""What an experiment needs from whoever is judged: an image goes in once, then prompts by the batch.

`anymask.Predictor` is one, and so is the baseline without learned weights. The suites know no more of a model
than this, so a test can judge one that knows the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from anymask.prompts import Prompt


class Answer(Protocol):
    """The K masks for one prompt, best first."""

    @property
    def masks(self) -> np.ndarray:
        """(K, H, W) bool at the image's own size."""

    @property
    def scores(self) -> np.ndarray:
        """(K,) the confidence in each, falling."""

    @property
    def logits(self) -> np.ndarray:
        """(K, h, w) float32 at the model's own size; the next prompt can take one as `mask_logits`."""


class Segmentable(Protocol):
    """Answers prompts about the image it was shown last."""

    def set_image(self, image: np.ndarray) -> object:
        """Look at an image, HxWx3 uint8 RGB."""

    def predict_batch(self, prompts: Sequence[Prompt]) -> Sequence[Answer]:
        """One answer for each prompt, in order."""


def describe(judged: Segmentable) -> dict[str, Any]:
    """Who is judged, as JSON values that change whenever the answers may.

    A `Predictor` is its model's name and the fingerprint of the weights; others may have a `describe()` that
    says it, and else are known by the name of their class alone.
    """
    from anymask.predictor import Predictor  # torch is needed only where a network is judged

    if isinstance(judged, Predictor):
        from anymask.model.checkpoints import fingerprint

        return {"name": judged.model.name, "fingerprint": fingerprint(judged.model)}
    own = getattr(judged, "describe", None)
    return dict(own()) if own is not None else {"name": type(judged).__name__}
