"""What all experiments write: a JSON for programs, a Markdown page for people, charts of grouped bars."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anymask.data.sa1b import write_text_atomically
from anymask.evaluation.plots import figure_class, save_figure

COLOURS = ("#2a6fbb", "#e08a2e", "#4f9d69", "#b0485f", "#7a68b3", "#7f8c8d")
MOST_UPRIGHT_GROUPS = 10  # more names run into each other
PAPER_COLOURS = ("#c9ccd1", "#a9aeb5", "#8b9199")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [list(header), ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def percent(value: float | None) -> str:
    """A fraction in per cent with one decimal; a dash for what there is none of."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def finite(value: Any) -> Any:
    """Nested values with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def how_made(*parts: Mapping[str, Any]) -> str:
    """What a result depends on, as a list."""
    return "\n".join(f"- {key}: {value}" for part in parts for key, value in part.items()) + "\n"


def write_report(out: str | Path, content: Mapping[str, Any], page: str, name: str = "results") -> None:
    """Write out/NAME.json and out/NAME.md, making the folder; each whole or not at all."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(out / f"{name}.json", json.dumps(finite(content), indent=1, allow_nan=False) + "\n")
    write_text_atomically(out / f"{name}.md", page.rstrip("\n") + "\n")


def plot_bars(
    path: str | Path,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    label: str,
    title: str = "",
    errors: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    published: Sequence[str] = (),
    limit: float = 100.0,
) -> None:
    """Draw a bar for each series in each group as a PNG; `errors` are lower and upper ends, as the values, none where
    they are not finite.

    `published` names the series that are others' figures: they are grey. Raises AnymaskError without
    matplotlib.
    """
    figure = figure_class()(figsize=(max(6.5, 0.7 * len(groups) * max(1, len(series) / 2)), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(1, len(series))
    own, others = iter(COLOURS * 4), iter(PAPER_COLOURS * 4)
    for index, (name, values) in enumerate(series.items()):
        places = [group + (index - (len(series) - 1) / 2) * width for group in range(len(groups))]
        heights = [0.0 if value is None or math.isnan(value) else value for value in values]
        colour = next(others if name in published else own)
        bars = axes.bar(places, heights, 0.92 * width, label=name, color=colour)
        size = 8 if len(groups) * len(series) <= 24 else 6
        texts = ["" if value is None or math.isnan(value) else f"{value:.1f}" for value in values]
        if errors is not None and name in errors:
            ends = [
                [max(0.0, height - low), max(0.0, high - height)] if math.isfinite(low + high) else [math.nan] * 2
                for height, (low, high) in zip(heights, errors[name], strict=True)
            ]
            axes.errorbar(places, heights, list(zip(*ends, strict=True)), fmt="none", ecolor="#333333", capsize=3)
        else:
            axes.bar_label(bars, labels=texts, padding=2, fontsize=size)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set(ylabel=label, xticks=range(len(groups)), xticklabels=groups, ylim=(0, limit))
    if len(groups) > MOST_UPRIGHT_GROUPS:
        axes.tick_params(axis="x", rotation=45)
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save_figure(figure, Path(path))
