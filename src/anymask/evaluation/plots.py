"""Charts of results; matplotlib is imported when one is drawn."""

from __future__ import annotations

import io
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from anymask.errors import AnymaskError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from anymask.evaluation.point_scores import PointResults


def plot_points(results: PointResults, path: str | Path) -> None:
    """Draw mean IoU over the number of clicks, a line for each set and a heavy one for their mean, as a PNG.

    Raises AnymaskError when matplotlib is not installed.
    """
    figure = figure_class()(figsize=(8, 4.5), layout="constrained")
    counts = [int(measure) for measure in results.mean if measure.isdecimal()]
    axes = figure.subplots()
    for name, scores in results.sets.items():
        axes.plot(
            counts,
            [100 * scores.miou[str(n)] for n in counts],
            marker="o",
            markersize=3,
            linewidth=1,
            label=name,
        )
    if len(results.sets) > 1:
        mean = [100 * results.mean[str(n)] for n in counts]
        axes.plot(counts, mean, marker="o", color="black", linewidth=2.5, label="mean over sets")
    axes.set(xlabel="clicks", ylabel="mean IoU (%)", xticks=counts, ylim=(0, 100))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    save_figure(figure, Path(path))


def figure_class() -> type[Figure]:
    # A bare Figure draws with the Agg canvas, without pyplot's global state or any display.
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AnymaskError("matplotlib is needed to draw results: pip install 'anymask[eval]'") from error
    return Figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write the whole picture or none of it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_bytes(buffer.getvalue())
    os.replace(temporary, path)
