"""Two models' point experiments side by side: the difference in mean IoU for each set (paper, figure 9a)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anymask.data.sa1b import read_json
from anymask.errors import DataError
from anymask.evaluation.intervals import bootstrap_mean
from anymask.evaluation.point_scores import object_scores
from anymask.evaluation.processes import work_in_processes
from anymask.evaluation.report import how_made, markdown_table, percent, write_report


@dataclass(frozen=True)
class SetDifference:
    """On one set: both mean IoUs, the first's lead in [-1, 1], and its 95% interval (None for a single image)."""

    objects: int
    first: float
    second: float
    lead: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class PointComparison:
    """The first model's lead over the second on the sets that both were judged on, largest first."""

    measure: str
    first_model: dict[str, Any]
    second_model: dict[str, Any]
    sets: dict[str, SetDifference]

    @property
    def mean_lead(self) -> float:
        """The mean over sets, each weighing the same."""
        return sum(of_set.lead for of_set in self.sets.values()) / len(self.sets)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows in per cent; the last row is the mean over sets."""
        rows = [
            [name, str(of.objects), percent(of.first), percent(of.second), _signed(of.lead), _interval(of.interval)]
            for name, of in self.sets.items()
        ]
        total = str(sum(of_set.objects for of_set in self.sets.values()))
        header = ["set", "objects", "first", "second", "lead", "95% interval"]
        return header, [*rows, ["mean over sets", total, "", "", _signed(self.mean_lead), ""]]

    def to_markdown(self) -> str:
        """A page with the table and who was compared."""
        return (
            f"# Lead in mean IoU (percentage points), measure {self.measure}\n\n{markdown_table(*self.table())}\n"
            "Object by object on the same objects; intervals by drawing images again and again (bootstrap).\n\n"
            "## First\n\n" + how_made(self.first_model) + "\n## Second\n\n" + how_made(self.second_model)
        )


def compare_points(first: str | Path, second: str | Path, out: str | Path, measure: str = "1") -> PointComparison:
    """Compare what `evaluate_points` left in two folders and write out/comparison.json, .md and .png.

    `measure` is a number of clicks, "oracle", "box" or "box+1". Only objects that both were asked for count. Raises
    DataError when a folder holds no results, when there is no set in both, or a measure is missing.
    """
    return compare_measures(first, second, {measure: out})[measure]


def compare_measures(
    first: str | Path, second: str | Path, outs: Mapping[str, str | Path], workers: int = 1
) -> dict[str, PointComparison]:
    """The same for several measures, each with its own folder; `workers` processes score a set each."""
    contents = [_results(Path(folder)) for folder in (first, second)]
    shared = [name for name in contents[0]["sets"] if name in contents[1]["sets"]]
    if not shared:
        raise DataError(
            f"{first} and {second}: have no set in common; the first has {', '.join(contents[0]['sets'])}, the "
            f"second {', '.join(contents[1]['sets'])}"
        )
    both = (Path(first), Path(second))
    folders = list(dict.fromkeys(folder / "predictions" / name for name in shared for folder in both))
    scored = dict(work_in_processes(_by_object, None, folders, workers))
    found = {}
    for measure, out in outs.items():
        sets = {
            name: _difference(scored, (both[0] / "predictions" / name, both[1] / "predictions" / name), measure)
            for name in shared
        }
        found[measure] = PointComparison(
            measure,
            contents[0]["model"],
            contents[1]["model"],
            dict(sorted(sets.items(), key=lambda entry: -entry[1].lead)),
        )
        _write(found[measure], Path(out))
    return found


def _write(comparison: PointComparison, out: Path) -> None:
    from anymask.evaluation.plots import plot_comparison

    write_report(out, {**asdict(comparison), "mean_lead": comparison.mean_lead}, comparison.to_markdown(), "comparison")
    plot_comparison(comparison, out / "comparison.png")


# Of each object, known by its image's name and its index, the scores by measure.
Scores = dict[tuple[str, int], dict[str, float]]


def _difference(scored: Mapping[Path, Scores], folders: tuple[Path, Path], measure: str) -> SetDifference:
    by_object = [scored[folder] for folder in folders]
    keys = [key for key in by_object[0] if key in by_object[1]]
    if not keys:
        raise DataError(f"no object was asked for in both {folders[0]} and {folders[1]}")
    for folder, of in zip(folders, by_object, strict=True):
        if any(measure not in of[key] for key in keys):
            raise DataError(f"{folder}: has no measure {measure!r}; it has {', '.join(of[keys[0]])}")
    scores = [[of[key][measure] for key in keys] for of in by_object]
    leads = [a - b for a, b in zip(*scores, strict=True)]
    images = [image for image, _ in keys]
    interval = bootstrap_mean(leads, images)
    return SetDifference(
        objects=len(keys),
        first=sum(scores[0]) / len(keys),
        second=sum(scores[1]) / len(keys),
        lead=interval.mean,
        interval=(interval.low, interval.high) if len(set(images)) > 1 else None,
    )


def _by_object(_: None, predictions: Path) -> tuple[Path, Scores]:
    found = {
        (image, index): scores for _, image, objects in object_scores(predictions) for index, scores in objects.items()
    }
    return predictions, found


def _results(folder: Path) -> dict[str, Any]:
    content = read_json(folder / "results.json")
    if not isinstance(content, dict) or not {"sets", "model"} <= set(content):
        raise DataError(f"{folder / 'results.json'}: holds no results of the point experiment")
    return content


def _signed(lead: float) -> str:
    return f"{100 * lead:+.1f}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{_signed(interval[0])} to {_signed(interval[1])}"
