"""From the point experiment's prediction files to its scores and reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anymask.data.sa1b import Sample
from anymask.errors import DataError
from anymask.evaluation.intervals import bootstrap_mean
from anymask.evaluation.metrics import mean_iou, mean_over_sets, rle_ious
from anymask.evaluation.points import (
    PointSettings,
    Progress,
    annotations_sha256,
    begin_points,
    export_all_points,
    point_set_of,
    set_name,
)
from anymask.evaluation.predictions import PredictionFolder, evenly_spaced
from anymask.evaluation.processes import work_in_processes
from anymask.evaluation.protocol import Segmentable, describe
from anymask.evaluation.report import how_made, markdown_table, percent, write_report


@dataclass(frozen=True)
class SetScores:
    """One data set's result: how much was judged, and the mean IoU in [0, 1] of every measure.

    Measures are "1", "2", ... (numbers of clicks), "oracle", "box" and "box+1". intervals: the ends of each
    mean's 95% confidence interval, images drawn again and again with all their objects; None for a single image.
    """

    images: int
    objects: int
    miou: dict[str, float]
    intervals: dict[str, tuple[float, float] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class PointResults:
    """The experiment's result: per set, and the mean over sets of every measure."""

    model: dict[str, Any]
    settings: PointSettings
    sets: dict[str, SetScores]
    mean: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As plain values, the form of results.json."""
        return asdict(self)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table to show, scores in per cent; the last row is the mean over sets."""
        header = ["set", "images", "objects", *self.mean]
        rows = [
            [name, str(scores.images), str(scores.objects), *_percents(scores.miou, self.mean)]
            for name, scores in self.sets.items()
        ]
        images, objects = (
            str(sum(getattr(scores, of) for scores in self.sets.values())) for of in ("images", "objects")
        )
        return header, [*rows, ["mean over sets", images, objects, *_percents(self.mean, self.mean)]]

    def interval_table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the confidence intervals, in per cent."""
        rows = []
        for name, scores in self.sets.items():
            ends = [scores.intervals.get(measure) for measure in self.mean]
            rows.append([name, *("-" if end is None else f"{percent(end[0])} to {percent(end[1])}" for end in ends)])
        return ["set", *self.mean], rows

    def to_markdown(self) -> str:
        """A page with the tables and how they were made."""
        return (
            f"# Mean IoU (%) by number of clicks\n\n{markdown_table(*self.table())}\n"
            "oracle: best of the masks for one click. box: the object's tight box. box+1: the box and one click that "
            "corrects its answer.\n\n"
            f"## 95% confidence intervals\n\n{markdown_table(*self.interval_table())}\n"
            "Images are drawn again and again (bootstrap), each with all its objects.\n\n"
            + how_made(self.model, asdict(self.settings))
        )


def score_points(predictions_folder: str | Path) -> SetScores:
    """Score one set's predictions against the truth in the data folder that their config.json names.

    Raises DataError when an image is missing, a file is broken, or the truth has changed since.
    """
    ious: dict[str, list[float]] = defaultdict(list)
    image_of: list[str] = []
    images = 0
    for _, name, of_image in object_scores(predictions_folder):
        images += 1
        image_of += [name] * len(of_image)
        for of_object in of_image.values():
            for measure, iou in of_object.items():
                ious[measure].append(iou)
    if not ious:
        raise DataError(f"{predictions_folder}: has no objects to score in {images} images")
    return SetScores(
        images=images,
        objects=len(image_of),
        miou={measure: mean_iou(values) for measure, values in ious.items()},
        intervals={measure: _interval(values, image_of) for measure, values in ious.items()},
    )


def object_scores(predictions_folder: str | Path) -> Iterator[tuple[Sample, str, dict[int, dict[str, float]]]]:
    """For each image what is true of it, its name and, by index in the annotation file, each object's IoU by measure.

    Raises DataError as `score_points` does.
    """
    predictions = PredictionFolder.open(predictions_folder)
    settings, point_set = _settings_of(predictions), point_set_of(predictions)
    for name in evenly_spaced(point_set.names, settings.max_images):
        sample = point_set.sample(name)
        yield sample, name, _image_ious(predictions, name, sample)


def evaluate_points(
    judged: Segmentable,
    data_folders: Sequence[str | Path],
    out: str | Path,
    settings: PointSettings | None = None,
    model: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    embeddings: str | Path | None = None,
    layout: str = "auto",
    images_dir: str | Path | None = None,
    workers: int = 1,
) -> PointResults:
    """Run the whole experiment on data sets (see `open_point_set` for their layouts) and write it down.

        model = anymask.load_model()
        predictor = anymask.Predictor(model)
        results = evaluate_points(predictor, ["data/pets/test"], "judged", PointSettings(max_images=50))
        results.mean["1"]  # mean IoU in [0, 1] at one click

    Writes out/predictions/SET/ (see `export_points`), out/results.json, out/results.md and out/points.png. A
    set is named by the last two parts of its path. `model` says who is judged (see `protocol.describe`, which
    does when it is left out); a run with the same description, settings and data continues one that was
    broken off, any other needs another `out`.
    `progress` is called after each image, of which `workers` processes answer one each. Raises DataError for sets of
    one name, broken data, or an `out` that was used otherwise.
    """
    from anymask.evaluation.plots import plot_points

    settings, out = settings or PointSettings(), Path(out)
    model = describe(judged) if model is None else dict(model)
    names = [set_name(folder) for folder in data_folders]
    if not names or len(set(names)) < len(names):
        raise DataError(f"data_folders are the sets {names}; allowed: one or more, each with its own name")
    begun = [
        begin_points(folder, out / "predictions" / name, settings, model, layout, images_dir)
        for name, folder in zip(names, data_folders, strict=True)
    ]
    export_all_points(judged, begun, settings, progress, embeddings, workers)
    scored = dict(work_in_processes(_score_set, out / "predictions", names, workers))
    sets = {name: scored[name] for name in names}
    mean = mean_over_sets({name: scores.miou for name, scores in sets.items()})
    results = PointResults(model, settings, sets, mean)
    write_report(out, results.to_json(), results.to_markdown())
    plot_points(results, out / "points.png")
    return results


def _score_set(predictions: Path, name: str) -> tuple[str, SetScores]:
    return name, score_points(predictions / name)


def _image_ious(predictions: PredictionFolder, name: str, sample: Sample) -> dict[int, dict[str, float]]:
    """IoU by measure for each object of one image, by its index."""
    path = predictions.image_path(name)
    content = predictions.read(name)
    try:
        if content["annotations_sha256"] != annotations_sha256(sample):
            raise DataError(f"the truth of {name} has changed since the predictions were made")
        return {
            entry["index"]: _object_ious(sample.annotations[entry["index"]].rle, entry) for entry in content["objects"]
        }
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no file of point predictions ({error!r})") from error


def _object_ious(truth: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, float]:
    ious = {
        count: rle_ious(truth, [candidate["rle"] for candidate in answer]) for count, answer in entry["clicks"].items()
    }
    # The first of an answer's masks is the one that the model is most confident of.
    result = {count: float(of_answer[0]) for count, of_answer in ious.items()}
    if "1" in ious:
        result["oracle"] = float(ious["1"].max())
    for key, measure in (("box", "box"), ("box_click", "box+1")):
        if entry.get(key) is not None:
            result[measure] = float(rle_ious(truth, [candidate["rle"] for candidate in entry[key]])[0])
    return result


def _settings_of(predictions: PredictionFolder) -> PointSettings:
    try:
        return PointSettings(**_entry(predictions, "settings"))
    except TypeError as error:
        raise DataError(f"{predictions.config_path}: settings are not the point experiment's") from error


def _entry(predictions: PredictionFolder, key: str) -> Any:
    if key not in predictions.config:
        raise DataError(f"{predictions.config_path}: has no {key!r}")
    return predictions.config[key]


def _percents(scores: Mapping[str, float], measures: Mapping[str, float]) -> list[str]:
    return [percent(scores[measure]) for measure in measures]


def _interval(values: Sequence[float], image_of: Sequence[str]) -> tuple[float, float] | None:
    if len(set(image_of)) < 2:
        return None
    interval = bootstrap_mean(values, image_of)
    return interval.low, interval.high
