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

    from anymask.evaluation.comparison import PointComparison
    from anymask.evaluation.edges.experiment import EdgeResults
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


def plot_comparison(comparison: PointComparison, path: str | Path) -> None:
    """Draw the lead on each set as a bar with its 95% interval, largest on top, as a PNG (paper, figure 9a).

    Raises AnymaskError when matplotlib is not installed.
    """
    sets = comparison.sets
    figure = figure_class()(figsize=(7, 1.4 + 0.32 * len(sets)), layout="constrained")
    axes = figure.subplots()
    places, leads = range(len(sets)), [100 * of_set.lead for of_set in sets.values()]
    axes.barh(places, leads, 0.7, color=["#2a6fbb" if lead >= 0 else "#b0485f" for lead in leads])
    for place, (lead, of_set) in enumerate(zip(leads, sets.values(), strict=True)):
        low, high = of_set.interval or (of_set.lead, of_set.lead)
        axes.plot([100 * low, 100 * high], [place, place], color="#333333", linewidth=1)
        ends = (max(lead, 100 * high, 0), 4) if lead >= 0 else (min(lead, 100 * low), -4)
        side = "left" if lead >= 0 else "right"
        axes.annotate(
            f"{lead:+.1f}", (ends[0], place), (ends[1], 0), textcoords="offset points", va="center", ha=side, fontsize=8
        )
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set(yticks=places, yticklabels=list(sets), xlabel="lead in mean IoU (percentage points)")
    names = comparison.first_model.get("name"), comparison.second_model.get("name")
    axes.set_title(f"{names[0]} over {names[1]}, measure {comparison.measure}", loc="left", fontsize=11)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.spines[["top", "right", "left"]].set_visible(False)
    save_figure(figure, Path(path))


def plot_edges(results: EdgeResults, path: str | Path) -> None:
    """Draw precision over recall with the best point marked, on lines of equal F, as a PNG.

    Raises AnymaskError when matplotlib is not installed.
    """
    figure = figure_class()(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    for tenth in range(1, 10):
        f = tenth / 10
        recalls = [f / (2 - f) + step * (1 - f / (2 - f)) / 100 for step in range(101)]
        axes.plot(recalls, [f * r / (2 * r - f) for r in recalls], color="#d5d8dc", linewidth=0.8, zorder=0)
        axes.annotate(f"F {f:.1f}", (1.005, f / (2 - f)), color="#8b9199", fontsize=7, annotation_clip=False)
    reached = [(r, p) for r, p in zip(results.recall, results.precision, strict=True) if p > 0]
    axes.plot([r for r, _ in reached], [p for _, p in reached], color="#2a6fbb", linewidth=2)
    best = results.scores
    label = f"{results.model['name']}: ODS {best.ods:.3f}"
    axes.plot(best.recall, best.precision, "o", color="#2a6fbb", label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="lower left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
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
