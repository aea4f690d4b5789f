"""Canny's edges (1986) as a map of strengths: the reference without learning that a model has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anymask.data.images import read_image
from anymask.geometry.boundaries import ridges


@dataclass(frozen=True)
class CannyDetector:
    """The gradient's magnitude after a Gaussian of `sigma` pixels, thinned.

    Of the colours the strongest gradient counts. There is no hysteresis: the benchmark cuts the map at every level.
    """

    sigma: float = 2.0

    def detect(self, image_path: Path) -> np.ndarray:
        """Edges (H, W) float32 in [0, 1]. Raises ImageError when the file cannot be read."""
        smooth = cv2.GaussianBlur(read_image(image_path).astype(np.float32), (0, 0), self.sigma)
        gradient = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)).max(axis=2)
        greatest = float(gradient.max())
        return ridges(gradient / greatest, self.sigma) if greatest else gradient

    def describe(self) -> dict[str, Any]:
        """What the edges depend on, as JSON values."""
        return {"name": "canny", "sigma": self.sigma}
