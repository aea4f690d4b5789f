"""What a human study says (paper, section E): mean ratings, whether they differ, and how far they can be trusted.

A method's value on an object is the mean over raters. Methods are compared on the objects that both have: by the
paired t-test (two-sided) and by the interval of the mean difference (99%, 10,000 draws of the images, as wholes).
Tasks that came twice are judged once, by the first; both together tell how consistent a rater is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from anymask.errors import DataError
from anymask.evaluation.intervals import Interval, bootstrap_mean
from anymask.evaluation.plots import figure_class, save_figure
from anymask.evaluation.report import COLOURS, how_made, markdown_table, write_report
from anymask.evaluation.study_ratings import HIGHEST, LOWEST, Rating, Ratings
from anymask.evaluation.study_tasks import read_key

DIFFERENCE_LEVEL = 0.99


@dataclass(frozen=True)
class MethodRatings:
    """One method: its mean rating with the 95% interval over objects, and how often each of 1 to 10 was given."""

    mean: Interval
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """The mean difference of two methods (first minus second) with its 99% interval, and the t-test's p-value.

    p_value is NaN where there are fewer than two objects.
    """

    first: str
    second: str
    difference: Interval
    p_value: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves out nought and p is below 0.01."""
        leaves_out_nought = self.difference.low > 0 or self.difference.high < 0
        return leaves_out_nought and self.p_value < 1 - DIFFERENCE_LEVEL


@dataclass(frozen=True)
class Consistency:
    """How alike the two ratings of the same mask are: pairs, mean absolute difference, and the share within 1."""

    pairs: int
    mean_difference: float
    within_one: float


@dataclass(frozen=True)
class StudyResults:
    """The study's result; raters: ratings given by each. consistency: by rater, and "all"; between: of two raters."""

    config: dict[str, Any]
    tasks: int
    raters: dict[str, int]
    median_seconds: float
    methods: dict[str, MethodRatings]
    comparisons: list[Comparison]
    consistency: dict[str, Consistency]
    between_raters: Consistency

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the mean ratings, the best first."""
        rows = [
            [name, str(of.mean.count), f"{of.mean.mean:.2f}", *(_end(end) for end in (of.mean.low, of.mean.high))]
            for name, of in sorted(self.methods.items(), key=lambda item: -item[1].mean.mean)
        ]
        return ["method", "masks", "mean rating", "95% from", "to"], rows

    def comparison_table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the paired comparisons."""
        rows = []
        for one in self.comparisons:
            ends = [_end(one.difference.low), _end(one.difference.high)]
            p_value = f"{one.p_value:.2g}" if isfinite(one.p_value) else "-"
            verdict = "yes" if one.is_significant else "no"
            name = f"{one.first} - {one.second}"
            rows.append([name, str(one.difference.count), f"{one.difference.mean:+.2f}", *ends, p_value, verdict])
        return ["difference", "masks", "mean", "99% from", "to", "p (t-test)", "significant"], rows

    def to_markdown(self) -> str:
        """A page with means, comparisons and consistency."""
        consistency = [
            [name, str(of.pairs), _number(of.mean_difference), "-" if not of.pairs else f"{100 * of.within_one:.0f}"]
            for name, of in {**self.consistency, "between raters": self.between_raters}.items()
        ]
        header = ["ratings of the same mask", "pairs", "mean difference", "within 1 (%)"]
        rated = ", ".join(f"{name}: {count}" for name, count in self.raters.items())
        return (
            f"# Human study\n\n{markdown_table(*self.table())}\n"
            f"Ratings from {LOWEST} to {HIGHEST}; the paper's SAM has means from 7 to 9 on its seven sets (7.1).\n\n"
            f"## Paired comparisons\n\n{markdown_table(*self.comparison_table())}\n"
            f"## Consistency\n\n{markdown_table(header, consistency)}\n"
            f"Rated of {self.tasks} tasks: {rated}. Median time for one: {self.median_seconds:.1f} s.\n\n"
            + how_made(self.config["settings"], self.config["methods"])
        )


def report_study(study: str | Path, out: str | Path | None = None) -> StudyResults:
    """Evaluate what has been rated so far and write study.json, study.md and study.png into `out` (the study's folder).

    Raises DataError for a folder that is no study, and when nothing was rated yet.
    """
    config, tasks = read_key(study)
    given = [rating for rating in Ratings(study).all() if rating.task in tasks]
    if not given:
        raise DataError(f"{study}: has no ratings yet; allowed: after `anymask study serve`")
    by_object = _by_object(given, tasks)
    methods = {
        name: MethodRatings(_mean(of, tasks_image(tasks)), _counts(given, tasks, name))
        for name, of in by_object.items()
    }
    results = StudyResults(
        config,
        len(tasks),
        {rater: sum(rating.rater == rater for rating in given) for rater in sorted({r.rater for r in given})},
        float(np.median([rating.seconds for rating in given])),
        methods,
        [
            _compare(first, second, by_object, tasks_image(tasks))
            for first, second in combinations(sorted(methods, key=lambda name: -methods[name].mean.mean), 2)
            if set(by_object[first]) & set(by_object[second])
        ],
        _consistency(given, tasks),
        _between_raters(given),
    )
    out = Path(study if out is None else out)
    write_report(out, asdict(results), results.to_markdown(), "study")
    _plot(results, out / "study.png")
    return results


def tasks_image(tasks: Mapping[str, Mapping[str, Any]]) -> dict[int, str]:
    """The image of each object's number."""
    return {task["thing"]: task["image"] for task in tasks.values()}


def paired_t_test(differences: Sequence[float]) -> float:
    """The two-sided p-value of a mean difference of nought; NaN for fewer than two differences."""
    from scipy.stats import ttest_1samp

    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return nan
    if np.ptp(values) == 0:  # the test divides by the spread
        return 1.0 if values[0] == 0 else 0.0
    return float(ttest_1samp(values, 0.0).pvalue)


def _by_object(given: Sequence[Rating], tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """For each method the mean rating of each object; repeated tasks are left out."""
    ratings: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rating in given:
        task = tasks[rating.task]
        if task["repeat_of"] is None:
            ratings[task["method"]][task["thing"]].append(rating.rating)
    return {name: {thing: float(np.mean(of)) for thing, of in things.items()} for name, things in ratings.items()}


def _mean(of_object: Mapping[int, float], image_of: Mapping[int, str]) -> Interval:
    return bootstrap_mean(list(of_object.values()), [image_of[thing] for thing in of_object])


def _counts(given: Sequence[Rating], tasks: Mapping[str, Mapping[str, Any]], method: str) -> tuple[int, ...]:
    values = [r.rating for r in given if tasks[r.task]["method"] == method and tasks[r.task]["repeat_of"] is None]
    return tuple(values.count(rating) for rating in range(LOWEST, HIGHEST + 1))


def _compare(
    first: str, second: str, by_object: Mapping[str, Mapping[int, float]], image_of: Mapping[int, str]
) -> Comparison:
    common = sorted(set(by_object[first]) & set(by_object[second]))
    differences = [by_object[first][thing] - by_object[second][thing] for thing in common]
    interval = bootstrap_mean(differences, [image_of[thing] for thing in common], DIFFERENCE_LEVEL)
    return Comparison(first, second, interval, paired_t_test(differences))


def _consistency(given: Sequence[Rating], tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Consistency]:
    """Each rater's own ratings of tasks that came twice."""
    rating_of = {(rating.rater, rating.task): rating.rating for rating in given}
    pairs: dict[str, list[int]] = {rater: [] for rater in sorted({rating.rater for rating in given})}
    for (rater, task), value in rating_of.items():
        earlier = rating_of.get((rater, tasks[task]["repeat_of"]))
        if earlier is not None:
            pairs[rater].append(value - earlier)
    return {**{rater: _alike(of) for rater, of in pairs.items()}, "all": _alike(sum(pairs.values(), []))}  # noqa: RUF017, few and short


def _between_raters(given: Sequence[Rating]) -> Consistency:
    by_task: dict[str, list[int]] = defaultdict(list)
    for rating in given:
        by_task[rating.task].append(rating.rating)
    return _alike([second - first for values in by_task.values() for first, second in combinations(values, 2)])


def _alike(differences: Sequence[int]) -> Consistency:
    if not differences:
        return Consistency(0, nan, nan)
    sizes = np.abs(differences)
    return Consistency(len(sizes), float(sizes.mean()), float((sizes <= 1).mean()))


def _end(value: float) -> str:
    return f"{value:.2f}" if isfinite(value) else "?"


def _number(value: float) -> str:
    return f"{value:.2f}" if isfinite(value) else "-"


def _plot(results: StudyResults, path: Path) -> None:
    """How often each rating was given, a row for each method, with the mean and its interval."""
    names = sorted(results.methods, key=lambda name: results.methods[name].mean.mean)
    figure = figure_class()(figsize=(7, 1.4 + 0.9 * len(names)), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(names):
        of = results.methods[name]
        shares = np.array(of.counts) / max(1, sum(of.counts))
        axes.bar(
            range(LOWEST, HIGHEST + 1),
            0.8 * shares / max(shares.max(), 0.01),
            0.9,
            bottom=row,
            color=COLOURS[row % len(COLOURS)],
            alpha=0.35,
        )
        low, high = (end if isfinite(end) else of.mean.mean for end in (of.mean.low, of.mean.high))
        axes.plot([low, high], [row + 0.12] * 2, color="#22262b", linewidth=2)
        axes.plot(of.mean.mean, row + 0.12, "o", color="#22262b", markersize=6)
        axes.annotate(
            f"{of.mean.mean:.2f}", (of.mean.mean, row + 0.12), (0, 7), textcoords="offset points", ha="center"
        )
    axes.set(
        xlabel="rating (dot: mean, line: 95% interval)",
        xticks=range(LOWEST, HIGHEST + 1),
        yticks=[row + 0.3 for row in range(len(names))],
        yticklabels=names,
        ylim=(-0.1, len(names)),
    )
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    save_figure(figure, path)
