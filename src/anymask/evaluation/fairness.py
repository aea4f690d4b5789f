"""Does a model segment some groups better than others? Mean IoU by group (paper, sections 6 and C).

The answers of the point experiment are used: `evaluate points` writes them, and a table, or the data set itself, says
which group an image, or one object of it, belongs to: perceived gender presentation, age, skin tone, category or
anything else (`groups.py`). Intervals are 95%: images are drawn as wholes (bootstrap), for
the objects of one image are no independent evidence. The paper gives 95% intervals too, but not the way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from anymask.data.sa1b import Sample
from anymask.errors import DataError
from anymask.evaluation.groups import Groups, TableGroups
from anymask.evaluation.intervals import Interval, bootstrap_mean
from anymask.evaluation.point_scores import object_scores
from anymask.evaluation.predictions import PredictionFolder
from anymask.evaluation.report import how_made, markdown_table, plot_bars, write_report

MEASURES = ("1", "3")
# SAM's mIoU (%) at 1 and 3 points and half the width of the 95% interval (paper, table 2: people).
PUBLISHED: dict[str, dict[str, tuple[tuple[float, float], tuple[float, float]]]] = {
    "perceived gender presentation": {
        "feminine": ((54.4, 1.7), (90.4, 0.6)),
        "masculine": ((55.7, 1.7), (90.1, 0.6)),
    },
    "perceived age group": {
        "older": ((62.9, 6.7), (92.6, 1.3)),
        "middle": ((54.5, 1.3), (90.2, 0.5)),
        "young": ((54.2, 2.2), (91.2, 0.7)),
    },
    "perceived skin tone": {
        "1": ((52.9, 2.2), (91.0, 0.9)),
        "2": ((51.5, 1.4), (91.1, 0.5)),
        "3": ((52.2, 1.9), (91.4, 0.7)),
        "4": ((51.5, 2.7), (91.7, 1.0)),
        "5": ((52.4, 4.2), (92.5, 1.4)),
        "6": ((56.7, 6.3), (91.2, 2.4)),
    },
}


@dataclass(frozen=True)
class FairnessResults:
    """Per attribute, group and measure (numbers of clicks, "oracle", "box") the mean IoU with its 95% interval.

    gaps: per attribute and measure the two groups that are farthest apart, by how much, and whether their
    intervals overlap. unknown: objects that the table does not have.
    """

    model: dict[str, Any]
    settings: dict[str, Any]
    table_name: str
    unknown: int
    groups: dict[str, dict[str, dict[str, Interval]]]
    gaps: dict[str, dict[str, dict[str, Any]]]

    def table(self, attribute: str) -> tuple[list[str], list[list[str]]]:
        """Header and rows of one attribute, as the paper's table 2: mean IoU with its interval in per cent."""
        of_attribute = self.groups[attribute]
        measures = list(next(iter(of_attribute.values())))
        header = [attribute, "objects", *(f"mIoU at {measure_name(measure)}" for measure in measures)]
        rows = []
        for group, intervals in of_attribute.items():
            count = max(interval.count for interval in intervals.values())
            rows.append([group, str(count), *(intervals[measure].percents() for measure in measures)])
        return header, rows

    def to_markdown(self) -> str:
        """A page with a table for each attribute, the largest gaps, and the paper's figures."""
        parts = ["# Fairness: mean IoU (%) by group\n\nIn brackets: 95% intervals, images drawn as wholes.\n"]
        for attribute, of_measure in self.gaps.items():
            parts.append(f"## {attribute}\n\n{markdown_table(*self.table(attribute))}")
            parts += [_gap_sentence(measure, gap) for measure, gap in of_measure.items()]
        rows = [
            [f"{attribute}: {group}", *(f"{mean} ± {half}" for mean, half in figures)]
            for attribute, of_attribute in PUBLISHED.items()
            for group, figures in of_attribute.items()
        ]
        header = ["SAM on people", *(f"mIoU at {measure_name(measure)}" for measure in MEASURES)]
        parts.append(f"## The paper's figures\n\n{markdown_table(header, rows)}")
        made = {"table": self.table_name, "objects that it does not have": self.unknown}
        return "\n".join([*parts, how_made(made, self.model, self.settings)])


def evaluate_fairness(
    predictions: Sequence[str | Path], groups: Groups | str | Path, out: str | Path, measures: Sequence[str] = MEASURES
) -> FairnessResults:
    """Score the point experiment's predictions by group and write out/fairness.json, fairness.md and fairness.png.

    `predictions` are folders with a config.json, such as OUT/predictions/SET. `groups` is the path of a table (see
    `TableGroups`) or says in another way which group an object belongs to. Raises DataError for predictions of
    several models or settings, for a measure they don't have, and when the groups of no object are known.
    """
    groups = TableGroups(groups) if isinstance(groups, str | Path) else groups
    model, settings = _common_config(predictions)
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    images: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    unknown = 0
    for folder in predictions:
        for sample, name, index, scores in _objects(folder, measures):
            own = groups.of(sample, name, index)
            if own is None:
                unknown += 1
                continue
            for attribute in filter(own.get, groups.attributes):
                for measure in measures:
                    values[attribute, own[attribute], measure].append(scores[measure])
                    images[attribute, own[attribute], measure].append(f"{folder}/{name}")
    if not values:
        raise DataError(f"{groups.source}: has none of the {unknown} objects that were judged; allowed: their images")
    by_group: dict[str, dict[str, dict[str, Interval]]] = {}
    for attribute, group, measure in sorted(values, key=lambda key: (groups.attributes.index(key[0]), key[1])):
        key = attribute, group, measure
        of_group = by_group.setdefault(attribute, {}).setdefault(group, {})
        of_group[measure] = bootstrap_mean(values[key], images[key])
    gaps = {attribute: {measure: _gap(of, measure) for measure in measures} for attribute, of in by_group.items()}
    results = FairnessResults(model, settings, groups.source, unknown, by_group, gaps)
    write_report(out, {**asdict(results), "published": PUBLISHED}, results.to_markdown(), "fairness")
    _plot(results, Path(out) / "fairness.png", measures)
    return results


def _objects(folder: str | Path, measures: Sequence[str]) -> Iterator[tuple[Sample, str, int, dict[str, float]]]:
    """Image, its name, index and IoU by measure of every judged object."""
    for sample, name, of_image in object_scores(folder):
        for index, scores in of_image.items():
            for measure in measures:
                if measure not in scores:
                    raise DataError(f"{folder}: was not made with {measure_name(measure)}; it has {', '.join(scores)}")
            yield sample, name, index, scores


def measure_name(measure: str) -> str:
    """A measure of the point experiment in words."""
    return f"{measure} point{'' if measure == '1' else 's'}" if measure.isdecimal() else measure


def _common_config(predictions: Sequence[str | Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    configs = [PredictionFolder.open(folder).config for folder in predictions]
    if not configs:
        raise DataError("predictions is empty; allowed: one folder of the point experiment or more")
    try:
        pairs = [(config["model"], config["settings"]) for config in configs]
    except KeyError as error:
        raise DataError(f"{predictions[0]}: holds no predictions of the point experiment") from error
    if any(pair != pairs[0] for pair in pairs):
        raise DataError(f"predictions are of several models or settings: {[pair[0] for pair in pairs]}; allowed: one")
    return pairs[0]


def _gap(groups: dict[str, dict[str, Interval]], measure: str) -> dict[str, Any]:
    """The two groups that are farthest apart; none where there is one alone."""
    pairs = list(combinations(sorted(groups, key=lambda group: groups[group][measure].mean), 2))
    if not pairs:
        return {"low": None, "high": None, "gap": 0.0, "overlap": True}
    low, high = max(pairs, key=lambda pair: groups[pair[1]][measure].mean - groups[pair[0]][measure].mean)
    below, above = groups[low][measure], groups[high][measure]
    return {"low": low, "high": high, "gap": above.mean - below.mean, "overlap": above.overlaps(below)}


def _gap_sentence(measure: str, gap: dict[str, Any]) -> str:
    if gap["low"] is None:
        return f"At {measure_name(measure)} there is one group alone.\n"
    verdict = "their intervals overlap" if gap["overlap"] else "their intervals are disjoint"
    points = 100 * gap["gap"]
    return f"At {measure_name(measure)} {gap['high']} is above {gap['low']} by {points:.1f} points; {verdict}.\n"


def _plot(results: FairnessResults, path: Path, measures: Sequence[str]) -> None:
    rows = [(attribute, group) for attribute, groups in results.groups.items() for group in groups]
    series: dict[str, list[float]] = {}
    errors: dict[str, list[tuple[float, float]]] = {}
    for measure in measures:
        intervals = [results.groups[attribute][group][measure] for attribute, group in rows]
        series[measure_name(measure)] = [100 * interval.mean for interval in intervals]
        errors[measure_name(measure)] = [(100 * interval.low, 100 * interval.high) for interval in intervals]
    names = [f"{group}\n({attribute})" if len(results.groups) > 1 else group for attribute, group in rows]
    title = f"{results.model.get('name')}, 95% intervals"
    plot_bars(path, names, series, "mean IoU (%)", title, errors=errors)


def find_predictions(paths: Sequence[str | Path]) -> list[Path]:
    """The folders of predictions that paths mean: themselves, or all in `predictions` of an experiment's folder.

    Raises DataError when a path is neither.
    """
    found = []
    for path in map(Path, paths):
        inside = sorted(file.parent for file in (path / "predictions").rglob("config.json"))
        if not (path / "config.json").is_file() and not inside:
            raise DataError(f"{path}: has no predictions; allowed: the output folder of `anymask evaluate points`")
        found += [path] if (path / "config.json").is_file() else inside
    return found
