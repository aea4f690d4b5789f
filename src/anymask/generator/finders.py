"""What a run over many images looks for in each: everything, or the objects in given boxes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anymask.data.detections import Detection
from anymask.data.images import read_image
from anymask.generator.boxes import segment_detections
from anymask.generator.generate import MaskGenerator, Progress
from anymask.model.segmenter import Segmenter
from anymask.records import MaskRecord

# Settings that change how much memory a run takes and not what it finds: they may differ from run to run.
FREE_OPTIONS = ("memory_mb", "points_per_batch")


@dataclass(frozen=True)
class Job:
    """One image file, and its name among the results: relative, with forward slashes.

    detections: the boxes to segment, where a run is about boxes. image_id: its number in a COCO file.
    """

    path: Path
    name: str
    detections: tuple[Detection, ...] = ()
    image_id: int | str | None = None


Find = Callable[[Job, np.ndarray, Progress | None], list[MaskRecord]]


class Finder(Protocol):
    """A way to find masks; it goes to worker processes, and `open` makes it ready there."""

    def settings(self, model: Segmenter) -> dict[str, Any]:
        """All that the results depend on besides the model's weights. Raises `AnymaskError` for what cannot be."""

    def open(self, model: Segmenter) -> Find:
        """A function of job, pixels (H, W, 3) and progress. Raises `AnymaskError` for settings that cannot be."""


@dataclass(frozen=True)
class Everything:
    """Automatic masks. options: arguments of `MaskGenerator` by name. roi: the region of interest, a picture of
    every image's size whose bright pixels belong to it.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    roi: Path | None = None

    def settings(self, model: Segmenter) -> dict[str, Any]:
        MaskGenerator(model, **self.options)
        told = {key: value for key, value in self.options.items() if value is not None and key not in FREE_OPTIONS}
        return {**asdict(model.generator_defaults), **told, "roi": _roi_digest(self.roi)}

    def open(self, model: Segmenter) -> Find:
        generator, roi_hw = MaskGenerator(model, **self.options), read_roi(self.roi)
        return lambda job, pixels_hwc, progress: generator.generate(pixels_hwc, roi_hw, progress)


@dataclass(frozen=True)
class DetectedObjects:
    """The objects in each job's boxes. boxes_digest: changes with any of them. The rest: see `segment_detections`."""

    boxes_digest: str
    is_refined: bool = False
    roi: Path | None = None
    memory_mb: float = 512

    def settings(self, model: Segmenter) -> dict[str, Any]:
        return {"boxes": self.boxes_digest, "refined": self.is_refined, "roi": _roi_digest(self.roi)}

    def open(self, model: Segmenter) -> Find:
        roi_hw = read_roi(self.roi)

        def find(job: Job, pixels_hwc: np.ndarray, progress: Progress | None) -> list[MaskRecord]:
            return segment_detections(
                model,
                pixels_hwc,
                job.detections,
                is_refined=self.is_refined,
                roi=roi_hw,
                memory_mb=self.memory_mb,
                progress=progress,
            )

        return find


def read_roi(path: Path | None) -> np.ndarray | None:
    """A region of interest (H, W) bool from a picture: brighter than half. Raises `ImageError`."""
    return None if path is None else read_image(path).max(axis=2) > 127


def _roi_digest(path: Path | None) -> str | None:
    roi_hw = read_roi(path)
    return None if roi_hw is None else hashlib.sha256(roi_hw.tobytes()).hexdigest()[:16]
