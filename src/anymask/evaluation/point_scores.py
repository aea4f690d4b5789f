"""From the point experiment's prediction files to its scores and reports."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anymask.data.sa1b import Sa1bFolder, Sample, write_text_atomically
from anymask.errors import DataError
from anymask.evaluation.metrics import mean_iou, mean_over_sets, rle_ious
from anymask.evaluation.points import (
    PointSettings,
    Progress,
    annotations_sha256,
    export_points,
    set_name,
)
from anymask.evaluation.predictions import PredictionFolder, evenly_spaced
from anymask.evaluation.protocol import Segmentable, describe


@dataclass(frozen=True)
class SetScores:
    """One data set's result: how much was judged, and the mean IoU in [0, 1] of every measure.

    Measures are "1", "2", ... (numbers of clicks), "oracle" and "box".
    """

    images: int
    objects: int
    miou: dict[str, float]


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

    def to_markdown(self) -> str:
        """A page with the table and how it was made."""
        header, rows = self.table()
        lines = ["# Mean IoU (%) by number of clicks", ""]
        lines += [_markdown_row(header), _markdown_row(["---", *["---:"] * (len(header) - 1)])]
        lines += [_markdown_row(row) for row in rows]
        lines += ["", "oracle: best of the masks for one click. box: the object's tight box.", ""]
        lines += [f"- {key}: {value}" for key, value in {**self.model, **asdict(self.settings)}.items()]
        return "\n".join(lines) + "\n"


def score_points(predictions_folder: str | Path) -> SetScores:
    """Score one set's predictions against the truth in the data folder that their config.json names.

    Raises DataError when an image is missing, a file is broken, or the truth has changed since.
    """
    predictions = PredictionFolder.open(predictions_folder)
    settings, folder = _settings_of(predictions), Sa1bFolder(_entry(predictions, "data"))
    ious: dict[str, list[float]] = defaultdict(list)
    names = evenly_spaced(folder.names, settings.max_images)
    for name in names:
        for of_object in _image_ious(predictions, folder[folder.names.index(name)]):
            for measure, iou in of_object.items():
                ious[measure].append(iou)
    if not ious:
        raise DataError(f"{folder.path}: has no objects to score in {len(names)} images")
    return SetScores(
        images=len(names),
        objects=max(map(len, ious.values())),
        miou={measure: mean_iou(values) for measure, values in ious.items()},
    )


def evaluate_points(
    judged: Segmentable,
    data_folders: Sequence[str | Path],
    out: str | Path,
    settings: PointSettings | None = None,
    model: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> PointResults:
    """Run the whole experiment on folders in SA-1B's layout and write it down.

        model = anymask.load_model()
        predictor = anymask.Predictor(model)
        results = evaluate_points(predictor, ["data/pets/test"], "judged", PointSettings(max_images=50))
        results.mean["1"]  # mean IoU in [0, 1] at one click

    Writes out/predictions/SET/ (see `export_points`), out/results.json, out/results.md and out/points.png. A
    set is named by the last two parts of its path. `model` says who is judged (see `protocol.describe`, which
    does when it is left out); a run with the same description, settings and data continues one that was
    broken off, any other needs another `out`.
    `progress` is called after each image. Raises DataError for sets of one name, broken data, or an `out`
    that was used otherwise.
    """
    from anymask.evaluation.plots import plot_points

    settings, out = settings or PointSettings(), Path(out)
    model = describe(judged) if model is None else dict(model)
    names = [set_name(folder) for folder in data_folders]
    if not names or len(set(names)) < len(names):
        raise DataError(f"data_folders are the sets {names}; allowed: one or more, each with its own name")
    for name, folder in zip(names, data_folders, strict=True):
        export_points(judged, folder, out / "predictions" / name, settings, model, progress)
    sets = {name: score_points(out / "predictions" / name) for name in names}
    mean = mean_over_sets({name: scores.miou for name, scores in sets.items()})
    results = PointResults(model, settings, sets, mean)
    write_text_atomically(out / "results.json", json.dumps(results.to_json(), indent=1) + "\n")
    write_text_atomically(out / "results.md", results.to_markdown())
    plot_points(results, out / "points.png")
    return results


def _image_ious(predictions: PredictionFolder, sample: Sample) -> list[dict[str, float]]:
    """IoU by measure for each object of one image."""
    path = predictions.image_path(sample.image_path.name)
    content = predictions.read(sample.image_path.name)
    try:
        if content["annotations_sha256"] != annotations_sha256(sample):
            raise DataError(f"{sample.json_path} has changed since the predictions were made")
        return [_object_ious(sample.annotations[entry["index"]].rle, entry) for entry in content["objects"]]
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
    if entry["box"] is not None:
        result["box"] = float(rle_ious(truth, [candidate["rle"] for candidate in entry["box"]])[0])
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
    return [f"{100 * scores[measure]:.1f}" for measure in measures]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
