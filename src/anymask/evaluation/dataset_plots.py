"""The paper's figures of a data set (section 5) as one picture; matplotlib is imported when one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anymask.evaluation.plots import figure_class, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anymask.data.statistics import DatasetStatistics

_COLOUR = "#2a6fbb"


def plot_dataset(statistics: DatasetStatistics, path: str | Path, title: str = "") -> None:
    """Draw masks per image, relative mask size, concavity and where the centres lie, as one PNG.

    Raises AnymaskError when matplotlib is not installed.
    """
    figure = figure_class()(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots(2, 2)
    masks, images = int(statistics.masks_per_image.sum()), len(statistics.masks_per_image)
    figure.suptitle(f"{title + ': ' if title else ''}{masks:,} masks on {images:,} images")
    _bars(axes[0, 0], statistics)
    _histogram(axes[0, 1], statistics.relative_sizes, "relative size: √(mask area / image area)")
    _histogram(axes[1, 0], statistics.concavities, "concavity: 1 - mask area / area of its convex hull")
    _heat_map(axes[1, 1], statistics.centres)
    save_figure(figure, Path(path))


def _bars(axes: Axes, statistics: DatasetStatistics) -> None:
    shares = statistics.group_shares()
    heights = [100 * share for share in shares.values()]
    bars = axes.bar(list(shares), heights, color=_COLOUR, alpha=0.85)
    axes.bar_label(bars, labels=[f"{height:.0f}" if height else "" for height in heights], padding=2)
    counts = statistics.masks_per_image
    mean = f", mean {counts.mean():.1f}" if len(counts) else ""
    axes.set(xlabel=f"masks per image{mean}", ylabel="images (%)", ylim=(0, 110))


def _histogram(axes: Axes, values: np.ndarray, label: str) -> None:
    from anymask.data.statistics import histogram

    bins = histogram(values)
    shares = 100 * np.array(bins["shares"])
    axes.stairs(shares, bins["edges"], fill=True, color=_COLOUR, alpha=0.85)
    if len(values):
        median = float(np.median(values))
        axes.axvline(median, color="black", linewidth=1, linestyle="--")
        axes.text(median + 0.015, 0.95 * max(shares), f"median {median:.3f}", va="top")
    axes.set(xlabel=label, ylabel="masks (%)", xlim=(0, 1))


def _heat_map(axes: Axes, centres: np.ndarray) -> None:
    image = axes.imshow(centres, cmap="magma", extent=(0, 1, 1, 0), interpolation="nearest", vmin=0)
    axes.set(xlabel="mask centres: x / width", ylabel="y / height")
    axes.figure.colorbar(image, ax=axes, label="masks")
