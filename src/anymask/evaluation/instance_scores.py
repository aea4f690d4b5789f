"""From the instance experiment's prediction files to mask AP, by the rules of COCO or of LVIS, and reports.

COCO's rules are pycocotools' own. LVIS's are ours over the same matching (`average_precision`): an image's
best 300 detections over all categories count; those of a category that the image was not checked for are left
out, and those that take nothing are forgiven where not every instance of the category is marked.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from anymask.data.sa1b import to_json, write_text_atomically
from anymask.errors import DataError
from anymask.evaluation.average_precision import SIZES, Matches, average_precision, match_image
from anymask.evaluation.instances import TRUE_BOXES, Boxes, InstanceSettings, export_instances
from anymask.evaluation.metrics import mean_iou, rle_ious
from anymask.evaluation.predictions import PredictionFolder
from anymask.evaluation.protocol import Segmentable
from anymask.evaluation.report import how_made, markdown_table, percent, plot_bars, write_report
from anymask.evaluation.true_images import Progress, read_predictions
from anymask.evaluation.truth import FREQUENCIES, TrueImage, TrueSet, open_truth

Found = Mapping[Any, Sequence[Mapping[str, Any]]]  # instances by image id

LVIS_MAX_DETECTIONS = 300
MEASURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
LVIS_MEASURES = (*MEASURES, "APr", "APc", "APf")
# Mask AP with the boxes of ViTDet-H (paper, table 5).
PUBLISHED = {
    "COCO": {
        "ViTDet-H (paper)": {"AP": 0.510, "APs": 0.320, "APm": 0.543, "APl": 0.689},
        "SAM (paper)": {"AP": 0.465, "APs": 0.308, "APm": 0.510, "APl": 0.617},
    },
    "LVIS": {
        "ViTDet-H (paper)": {"AP": 0.466, "APs": 0.350, "APm": 0.580, "APl": 0.663},
        "SAM (paper)": {"AP": 0.447, "APs": 0.325, "APm": 0.576, "APl": 0.655},
    },
}


@dataclass(frozen=True)
class InstanceResults:
    """The experiment's result on one set.

    rules: "COCO" or "LVIS". boxes: where they came from. scores: measures (AP, AP50, AP75, APs, APm, APl and
    LVIS's APr, APc, APf; NaN where nothing of it is in the set) of the "first" and the "refined" masks.
    miou: mean IoU of each round's masks; only with true boxes, whose objects are known.
    """

    model: dict[str, Any]
    settings: dict[str, Any]
    data: str
    rules: str
    boxes: str
    images: int
    instances: int
    scores: dict[str, dict[str, float]]
    miou: dict[str, float]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows in per cent: published figures with a detector's boxes, then ours."""
        measures = LVIS_MEASURES if self.rules == "LVIS" else MEASURES
        header = ["masks", *measures, *(["mIoU"] if self.miou else [])]
        rows = [
            [name, *(percent(of.get(measure)) for measure in measures), *(["-"] if self.miou else [])]
            for name, of in PUBLISHED[self.rules].items()
        ]
        for stage, of in self.scores.items():
            extra = [percent(self.miou[stage])] if self.miou else []
            name = f"{self.model.get('name')}, {stage}"
            rows.append([name, *(percent(of.get(measure)) for measure in measures), *extra])
        return header, rows

    def to_markdown(self) -> str:
        """A page with the table and how it was made."""
        return (
            f"# Instances: {self.data}\n\n{markdown_table(*self.table())}\n"
            f"Mask AP (%) by {self.rules}'s rules; {self.instances:,} boxes on {self.images:,} images, "
            f"boxes: {self.boxes}. First: the most confident mask for a box. Refined: after feeding it back once.\n"
            f"The paper's figures are of {self.rules}'s whole validation set with the boxes of ViTDet-H: with other "
            "images or boxes they only give the scale.\n\n" + how_made(self.model, self.settings)
        )


def evaluate_instances(
    judged: Segmentable,
    truth: TrueSet,
    boxes: Boxes,
    out: str | Path,
    settings: InstanceSettings | None = None,
    embeddings: str | Path | None = None,
    progress: Progress | None = None,
    workers: int = 1,
) -> InstanceResults:
    """Run the whole experiment on one set and write it down.

        truth = open_truth("coco/annotations/instances_val2017.json")
        results = evaluate_instances(predictor, truth, Detections("vitdet_val2017.json"), "judged")
        results.scores["refined"]["AP"]

    Writes out/predictions/, out/coco_results.json (COCO's results format), out/results.json, out/results.md and
    out/instances.png; a run that was broken off goes on where it stopped. Raises DataError for broken files, an
    `out` used otherwise, or a set without objects.
    """
    settings, out = settings or InstanceSettings(), Path(out)
    export_instances(judged, truth, boxes, out / "predictions", settings, embeddings, progress, workers)
    results = score_instances(out / "predictions", truth)
    write_report(out, {**asdict(results), "published": PUBLISHED[results.rules]}, results.to_markdown())
    _write_coco_results(out / "coco_results.json", out / "predictions", truth)
    measures = list(PUBLISHED[results.rules]["SAM (paper)"])
    series = {name: [100 * of[measure] for measure in measures] for name, of in PUBLISHED[results.rules].items()}
    name = results.model.get("name")
    series |= {f"{name}, {stage}": [100 * of[measure] for measure in measures] for stage, of in results.scores.items()}
    title = f"Instances: {results.data}, boxes: {results.boxes}"
    plot_bars(out / "instances.png", measures, series, "mask AP (%)", title, published=list(PUBLISHED[results.rules]))
    return results


def score_instances(predictions_folder: str | Path, truth: TrueSet | None = None) -> InstanceResults:
    """Score a folder of instances against the truth that its config.json names (or `truth`, the same, opened).

    Raises DataError when an image is missing, a file is broken, or the truth has changed since.
    """
    predictions = PredictionFolder.open(predictions_folder)
    config = predictions.config
    if config.get("experiment") != "instances":
        raise DataError(f"{predictions.config_path}: holds no instances")
    truth = truth or open_truth(config["data"], config["images_dir"])
    images = list(truth.images(config["settings"]["max_images"]))
    if not any(not thing.is_crowd for image in images for thing in image.objects):
        raise DataError(f"{truth.path}: has no objects to find in {len(images)} images")
    found = {image.image_id: read_predictions(predictions, image, "instances") for image in images}
    stages = {"first": "first", "refined": "segmentation"} if config["settings"]["refine"] else {"first": "first"}
    scores, miou = {}, {}
    for stage, key in stages.items():
        chosen = {
            image_id: [{**entry, "segmentation": entry[key]} for entry in entries]
            for image_id, entries in found.items()
        }
        scores[stage] = lvis_scores(images, chosen, truth) if truth.is_federated else coco_scores(images, chosen)
        if config["boxes"] == TRUE_BOXES:
            miou[stage] = _mean_iou(images, chosen)
    rules = "LVIS" if truth.is_federated else "COCO"
    count = sum(map(len, found.values()))
    model, settings = config["model"], config["settings"]
    return InstanceResults(model, settings, truth.name, rules, config["boxes"], len(images), count, scores, miou)


def coco_scores(images: Sequence[TrueImage], found: Found) -> dict[str, float]:
    """Mask AP by pycocotools; NaN where no object is of that size. Without categories all are one class."""
    # Its modules are quick to import, but print; and only this needs them.
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images:
        for thing in image.objects:
            facts = {"area": thing.area, "bbox": list(thing.bbox_xywh), "iscrowd": int(thing.is_crowd)}
            own = {"id": len(annotations) + 1, "image_id": image.image_id, "category_id": thing.category_id or 0}
            annotations.append(own | facts | {"segmentation": thing.rle})
        for entry in found[image.image_id]:
            own = {"image_id": image.image_id, "category_id": entry["category_id"] or 0, "score": entry["score"]}
            results.append(own | {"segmentation": entry["segmentation"]})
    if not results:  # pycocotools takes no empty list
        return dict.fromkeys(MEASURES, 0.0)
    categories = sorted({entry["category_id"] for entry in annotations})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [
                {"id": image.image_id, "height": image.size_hw[0], "width": image.size_hw[1]} for image in images
            ],
            "annotations": annotations,
            "categories": [{"id": category} for category in categories],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {measure: nan if value < 0 else float(value) for measure, value in zip(MEASURES, evaluation.stats)}  # noqa: B905, twelve numbers of which six are precision


def lvis_scores(images: Sequence[TrueImage], found: Found, truth: TrueSet) -> dict[str, float]:
    """Mask AP by LVIS's rules, the mean over categories that have objects; NaN where nothing is of a kind."""
    matches: dict[tuple[int, str], list[Matches]] = defaultdict(list)
    for image in images:
        entries = sorted(found[image.image_id], key=lambda entry: -entry["score"])[:LVIS_MAX_DETECTIONS]
        present = {thing.category_id for thing in image.objects if thing.category_id is not None}
        for category in sorted({*present, *image.neg_category_ids} & set(truth.categories)):
            for size, of_image in _lvis_image(image, [e for e in entries if e["category_id"] == category], category):
                matches[category, size].append(of_image)
    precision = {key: average_precision(of_key) for key, of_key in matches.items()}

    def mean(size: str = "all", threshold: float | None = None, frequency: str | None = None) -> float:
        chosen = [
            values if threshold is None else values[round((threshold - 0.5) / 0.05)]
            for (category, of_size), values in precision.items()
            if of_size == size and frequency in (None, truth.categories[category].frequency)
        ]
        known = [float(np.mean(values)) for values in chosen if not np.isnan(values).any()]
        return float(np.mean(known)) if known else nan

    sizes = {f"AP{size[0]}": mean(size) for size in SIZES if size != "all"}
    frequencies = {f"AP{letter}": mean(frequency=name) for letter, name in FREQUENCIES.items()}
    return {"AP": mean(), "AP50": mean(threshold=0.5), "AP75": mean(threshold=0.75), **sizes, **frequencies}


def _lvis_image(image: TrueImage, entries: Sequence[Mapping[str, Any]], category: int) -> list[tuple[str, Matches]]:
    """Size and matches of one image and category."""
    objects = [thing for thing in image.objects if thing.category_id == category]
    codes = [entry["segmentation"] for entry in entries]
    shape = (len(codes), len(objects))
    ious = np.zeros(shape)
    if all(shape):
        ious = np.asarray(coco_mask.iou(codes, [thing.rle for thing in objects], [0] * len(objects)), dtype=np.float64)
    areas_d = np.asarray(coco_mask.area(codes), dtype=np.float64) if codes else np.zeros(0)
    areas_g = np.array([thing.area for thing in objects])
    scores = np.array([float(entry["score"]) for entry in entries])
    is_exhaustive = category not in image.not_exhaustive_category_ids
    no_crowd = np.zeros(len(objects), dtype=bool)  # LVIS has none
    return [
        (size, match_image(scores, areas_d, ious, areas_g, no_crowd, area_range, is_exhaustive))
        for size, area_range in SIZES.items()
    ]


def _mean_iou(images: Sequence[TrueImage], found: Found) -> float:
    """Mean IoU of all objects with the answers to their boxes; 0 for an object that has none."""
    ious = []
    for image in images:
        answers = {entry["object"]: entry["segmentation"] for entry in found[image.image_id]}
        for index, thing in enumerate(image.objects):
            if not thing.is_crowd:
                ious.append(float(rle_ious(thing.rle, [answers[index]])[0]) if index in answers else 0.0)
    return mean_iou(ious)


def _write_coco_results(path: Path, predictions_folder: Path, truth: TrueSet) -> None:
    """The final masks as any evaluation server takes them."""
    predictions = PredictionFolder.open(predictions_folder)
    keys = ("category_id", "score", "bbox", "segmentation")
    entries = [
        {"image_id": image.image_id, **{key: entry[key] for key in keys}}
        for image in truth.images(predictions.config["settings"]["max_images"])
        for entry in read_predictions(predictions, image, "instances")
    ]
    write_text_atomically(path, to_json(path, entries))
