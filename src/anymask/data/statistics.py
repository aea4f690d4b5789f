"""What a data set's masks are like: the figures by which the paper compares SA-1B with others (section 5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from anymask.data.annotated import AnnotatedImage
from anymask.geometry.regions import convex_hull_area

# Masks per image in the paper's groups (section 5): the last number of each, and no end.
GROUP_ENDS = (10, 50, 100, 200)
GROUP_NAMES = ("0-10", "11-50", "51-100", "101-200", "201+")
CENTRE_CELLS = 32
_BINS = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class DatasetStatistics:
    """The figures of a data set.

    masks_per_image: (images,) int. relative_sizes: (masks,) sqrt(mask area / image area). concavities:
    (masks,) 1 - area / area of the convex hull. centres: (32, 32) int, how many masks have their centre of
    gravity in each cell of the image, rows from the top. categories: masks by class name, None for none.
    Empty masks count in `masks_per_image` and `empty_masks` alone.
    """

    masks_per_image: np.ndarray
    relative_sizes: np.ndarray
    concavities: np.ndarray
    centres: np.ndarray
    categories: dict[str | None, int]
    empty_masks: int

    def group_shares(self) -> dict[str, float]:
        """The share of images with 0 to 10 masks, 11 to 50, and so on; zeros without any image."""
        groups = np.searchsorted(GROUP_ENDS, self.masks_per_image, side="left")
        counts = np.bincount(groups, minlength=len(GROUP_NAMES))
        shares = counts / max(1, len(self.masks_per_image))
        return dict(zip(GROUP_NAMES, shares.tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """Everything in plain JSON values; means and quantiles of no masks are None."""
        return {
            "images": len(self.masks_per_image),
            "masks": int(self.masks_per_image.sum()),
            "empty_masks": self.empty_masks,
            "masks_per_image": {
                **_summary(self.masks_per_image),
                "share_of_images": self.group_shares(),
            },
            "relative_size": {**_summary(self.relative_sizes), **histogram(self.relative_sizes)},
            "concavity": {**_summary(self.concavities), **histogram(self.concavities)},
            "centres": self.centres.tolist(),
            "categories": {name or "": count for name, count in self.categories.items()},
        }


def collect_statistics(images: Iterable[AnnotatedImage]) -> DatasetStatistics:
    """The figures of all images, one mask decoded at a time. Raises DataError for a broken mask."""
    masks_per_image, sizes, concavities = [], [], []
    centres = np.zeros((CENTRE_CELLS, CENTRE_CELLS), dtype=np.int64)
    categories: Counter[str | None] = Counter()
    empty_masks = 0
    for image in images:
        height, width = image.size_hw
        masks_per_image.append(len(image.records))
        for record in image.records:
            categories[record.category] += 1
            if record.area == 0:
                empty_masks += 1
                continue
            mask = record.mask
            sizes.append(np.sqrt(record.area / (height * width)))
            concavities.append(1 - record.area / convex_hull_area(mask))
            x, y = _centre_xy(mask)
            centres[int(y / height * CENTRE_CELLS), int(x / width * CENTRE_CELLS)] += 1
    return DatasetStatistics(
        masks_per_image=np.array(masks_per_image, dtype=np.int64),
        relative_sizes=np.array(sizes),
        concavities=np.array(concavities),
        centres=centres,
        categories=dict(categories.most_common()),
        empty_masks=empty_masks,
    )


def histogram(values: np.ndarray) -> dict[str, list[float]]:
    """Shares of values between 0 and 1 in twenty equal bins: {"edges": 21 numbers, "shares": 20}."""
    counts, _ = np.histogram(values, bins=_BINS)
    return {"edges": _BINS.tolist(), "shares": (counts / max(1, len(values))).tolist()}


def _centre_xy(mask: np.ndarray) -> tuple[float, float]:
    """The centre of gravity in pixels along edges: never on the far border of the image."""
    moments = cv2.moments(mask.view(np.uint8), binaryImage=True)
    return moments["m10"] / moments["m00"] + 0.5, moments["m01"] / moments["m00"] + 0.5


def _summary(values: np.ndarray) -> dict[str, float | None]:
    if len(values) == 0:
        return dict.fromkeys(("mean", "min", "quarter", "median", "three_quarters", "max"))
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
    names = ("min", "quarter", "median", "three_quarters", "max")
    return {"mean": float(values.mean()), **dict(zip(names, quantiles, strict=True))}
