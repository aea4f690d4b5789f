"""The paper's third zero-shot experiment (section 7.3 and D.3): does everything in an image include its objects?

A grid of points without crops and filters gives about 900 masks an image, ranked by the mean of confidence and
stability. Average recall asks how many true objects are among an image's best 10, 100 and 1000, as masks and
as boxes, by size and, in LVIS, by how frequent the category is. `export_proposals` writes the masks as files,
`score_proposals` reads and scores them, `evaluate_proposals` does it all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pycocotools import mask as coco_mask

from anymask.errors import DataError
from anymask.evaluation.average_precision import SIZES, Matches, average_recall, match_image
from anymask.evaluation.embeddings import cached_embedding
from anymask.evaluation.predictions import PredictionFolder
from anymask.evaluation.report import how_made, markdown_table, percent, plot_bars, write_report
from anymask.evaluation.true_images import Progress, read_predictions, work_off
from anymask.evaluation.truth import FREQUENCIES, TrueImage, TrueSet, open_truth
from anymask.geometry.rle import rle_to_box_xywh
from anymask.model.segmenter import Segmenter

LIMITS = (10, 100, 1000)
KINDS = ("mask", "box")
GROUPS = (*SIZES, *FREQUENCIES.values())
# Mask AR@1000 on LVIS v1 (paper, table 4), by group.
PUBLISHED = {
    "ViTDet-H (paper)": dict(zip(GROUPS, (0.630, 0.517, 0.808, 0.870, 0.583, 0.633, 0.631), strict=True)),
    "SAM, single output (paper)": dict(zip(GROUPS, (0.549, 0.428, 0.767, 0.744, 0.620, 0.598, 0.547), strict=True)),
    "SAM (paper)": dict(zip(GROUPS, (0.593, 0.455, 0.816, 0.869, 0.658, 0.639, 0.591), strict=True)),
}


@dataclass(frozen=True)
class ProposalSettings:
    """How proposals are made; the values are the paper's (D.3) but the last, which it does not speak of.

    points_per_side: of the grid. box_nms_thresh: IoU of boxes above which the lesser mask goes. max_proposals:
    the best so many of an image are kept. min_mask_region_area: smaller islands and holes are removed, in
    pixels. max_images: at most so many of a set, evenly spaced. Raises DataError for what is not allowed.
    """

    points_per_side: int = 64
    box_nms_thresh: float = 0.9
    max_proposals: int = 1000
    min_mask_region_area: int = 0
    max_images: int | None = None

    def __post_init__(self) -> None:
        for name in ("points_per_side", "max_proposals", "max_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} is {value}; allowed: 1 or more")


class Proposer(Protocol):
    """Finds everything in an image file."""

    def propose(self, image_path: Path) -> list[dict[str, Any]]:
        """The proposals in any order: `segmentation` (a code), `score` (any scale), further keys as JSON values."""

    def describe(self) -> dict[str, Any]:
        """Who it is, as JSON values that change whenever the proposals may."""


class GeneratorProposer:
    """The automatic masks of a model, without filters; `embeddings` is the folder that keeps them, or None."""

    def __init__(self, model: Segmenter, settings: ProposalSettings, embeddings: str | Path | None = None) -> None:
        from anymask.generator import MaskGenerator

        self.embeddings = embeddings
        self.generator = MaskGenerator(
            model,
            settings.points_per_side,
            box_nms_thresh=settings.box_nms_thresh,
            min_mask_region_area=settings.min_mask_region_area,
            pred_iou_thresh=0.0,
            stability_score_thresh=0.0,
            max_coverage=1.0,
            has_hierarchy=False,
        )

    def propose(self, image_path: Path) -> list[dict[str, Any]]:
        """The masks, each with the mean of confidence and stability for its score (paper, D.3)."""
        embedding = cached_embedding(self.generator.model, image_path, self.embeddings)
        proposals = []
        for record in self.generator.generate(embedding):
            iou, stability = record.predicted_iou or 0.0, record.stability_score or 0.0
            facts = {"predicted_iou": iou, "stability_score": stability, "score": (iou + stability) / 2}
            proposals.append({"segmentation": record.segmentation, **facts})
        return proposals

    def describe(self) -> dict[str, Any]:
        """The model's name and the fingerprint of its weights."""
        from anymask.model.checkpoints import fingerprint

        return {"name": self.generator.model.name, "fingerprint": fingerprint(self.generator.model)}


@dataclass(frozen=True)
class ProposalResults:
    """The experiment's result on one set.

    recall: fractions by kind ("mask", "box"), group ("all", "small", ... "rare", ...) and limit ("10", "100",
    "1000"); NaN where a group has no objects. objects: how many of each group. proposals: mean of an image.
    """

    model: dict[str, Any]
    settings: dict[str, Any]
    data: str
    images: int
    proposals: float
    objects: dict[str, int]
    recall: dict[str, dict[str, dict[str, float]]]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows, a row for each group that has objects, in per cent."""
        header = ["objects", "count", *(f"{kind}@{limit}" for kind in KINDS for limit in LIMITS)]
        rows = []
        for group, count in self.objects.items():
            if count:
                cells = [percent(self.recall[kind][group][str(limit)]) for kind in KINDS for limit in LIMITS]
                rows.append([group, str(count), *cells])
        return header, rows

    def published_table(self) -> tuple[list[str], list[list[str]]]:
        """Mask AR@1000 beside the paper's figures."""
        groups = [group for group in GROUPS if group in self.objects]
        own = [percent(self.recall["mask"][group]["1000"]) for group in groups]
        rows = [[name, "LVIS v1", *(percent(of[group]) for group in groups)] for name, of in PUBLISHED.items()]
        return ["mask AR@1000", "data", *groups], [*rows, [str(self.model.get("name")), self.data, *own]]

    def to_markdown(self) -> str:
        """A page with the tables and how they were made."""
        return (
            f"# Object proposals: {self.data}\n\n{markdown_table(*self.table())}\n"
            "Average recall (%) over IoU 0.50 to 0.95 of the best 10, 100 and 1000 proposals of an image, "
            f"{self.proposals:.0f} of which there were on average. Small: under 32² pixels, large: over 96².\n\n"
            f"## Beside published figures\n\n{markdown_table(*self.published_table())}\n"
            "The paper's figures are zero-shot on LVIS v1's validation set; only that set compares with them.\n\n"
            + how_made({"images": self.images}, self.model, self.settings)
        )


def export_proposals(
    proposer: Proposer,
    truth: TrueSet,
    out: str | Path,
    settings: ProposalSettings,
    progress: Progress | None = None,
    workers: int = 1,
) -> PredictionFolder:
    """Write the proposals of every image to the folder `out`, ranked and cut off; what is done is passed over.

    `workers` processes share the images. Raises DataError when `out` holds other predictions, or a picture is missing.
    """
    config = {
        "experiment": "proposals",
        "model": proposer.describe(),
        "settings": asdict(settings),
        **truth.describe(),
    }
    predictions = PredictionFolder.create(out, config)
    work_off(partial(_propose, proposer, settings), truth, predictions, settings.max_images, progress, workers)
    return predictions


def _propose(proposer: Proposer, settings: ProposalSettings, image: TrueImage) -> dict[str, Any]:
    """What is written of one image."""
    ranked = sorted(proposer.propose(image.require_path()), key=lambda proposal: -proposal["score"])
    return {"proposals": ranked[: settings.max_proposals]}


def score_proposals(predictions_folder: str | Path, truth: TrueSet | None = None) -> ProposalResults:
    """Score a folder of proposals against the truth that its config.json names (or `truth`, the same, opened).

    Raises DataError when an image is missing, a file is broken, or the truth has changed since.
    """
    predictions = PredictionFolder.open(predictions_folder)
    if predictions.config.get("experiment") != "proposals":
        raise DataError(f"{predictions.config_path}: holds no proposals")
    truth = truth or open_truth(predictions.config["data"], predictions.config["images_dir"])
    settings = predictions.config["settings"]
    groups = [*SIZES, *(FREQUENCIES.values() if truth.is_federated else ())]
    matches: dict[tuple[str, str], list[Matches]] = defaultdict(list)
    counts: list[int] = []
    for image in truth.images(settings["max_images"]):
        proposals = read_predictions(predictions, image, "proposals")
        counts.append(len(proposals))
        for kind, group, of_image in _match(proposals, image, truth, groups):
            matches[kind, group].append(of_image)
    objects = {group: sum(of_image.positives for of_image in matches["mask", group]) for group in groups}
    if not objects["all"]:
        raise DataError(f"{truth.path}: has no objects to find in {len(counts)} images")
    recall = {
        kind: {group: {str(limit): average_recall(matches[kind, group], limit) for limit in LIMITS} for group in groups}
        for kind in KINDS
    }
    model, mean = predictions.config["model"], float(np.mean(counts))
    return ProposalResults(model, settings, truth.name, len(counts), mean, objects, recall)


def evaluate_proposals(
    proposer: Proposer,
    truth: TrueSet,
    out: str | Path,
    settings: ProposalSettings | None = None,
    progress: Progress | None = None,
    workers: int = 1,
) -> ProposalResults:
    """Run the whole experiment on one set and write it down.

        settings = ProposalSettings(points_per_side=32)
        truth = open_truth("coco/annotations/instances_val2017.json")
        results = evaluate_proposals(GeneratorProposer(model, settings), truth, "judged", settings)
        results.recall["mask"]["all"]["1000"]

    Writes out/predictions/, out/results.json, out/results.md and out/proposals.png; a run that was broken off
    goes on where it stopped. Raises DataError as `export_proposals` and `score_proposals` do.
    """
    settings, out = settings or ProposalSettings(), Path(out)
    export_proposals(proposer, truth, out / "predictions", settings, progress, workers)
    results = score_proposals(out / "predictions", truth)
    write_report(out, {**asdict(results), "published": PUBLISHED}, results.to_markdown())
    groups = [group for group, count in results.objects.items() if count]
    series = {name: [100 * of[group] for group in groups] for name, of in PUBLISHED.items()}
    own = f"{results.model.get('name')}, {results.data}"
    series[own] = [100 * results.recall["mask"][group]["1000"] for group in groups]
    plot_bars(out / "proposals.png", groups, series, "mask AR@1000 (%)", "Object proposals", published=list(PUBLISHED))
    return results


def _match(
    proposals: Sequence[Mapping[str, Any]], image: TrueImage, truth: TrueSet, groups: Sequence[str]
) -> list[tuple[str, str, Matches]]:
    """Kind, group and matches of one image; categories play no part but for their frequency."""
    codes = [proposal["segmentation"] for proposal in proposals]
    is_crowd_g = np.array([thing.is_crowd for thing in image.objects], dtype=bool)
    areas_g = np.array([thing.area for thing in image.objects])
    frequencies = np.array([_frequency(thing.category_id, truth) for thing in image.objects])
    scores_d = np.array([proposal["score"] for proposal in proposals])
    boxes = np.array([rle_to_box_xywh(code) for code in codes]).reshape(-1, 4)
    true_boxes = np.array([thing.bbox_xywh for thing in image.objects]).reshape(-1, 4)
    overlaps: dict[str, Callable[[], Any]] = {
        "mask": lambda: coco_mask.iou(codes, [thing.rle for thing in image.objects], is_crowd_g.astype(np.uint8)),
        "box": lambda: coco_mask.iou(boxes, true_boxes, is_crowd_g.astype(np.uint8)),
    }
    result = []
    for kind in KINDS:
        shape = (len(codes), len(image.objects))
        ious = np.asarray(overlaps[kind](), dtype=np.float64) if all(shape) else np.zeros(shape)
        for group in groups:
            is_asked_g = None if group in SIZES else frequencies == group
            size = SIZES.get(group, SIZES["all"])
            # Proposals' own areas change no recall.
            of_image = match_image(scores_d, np.ones(shape[0]), ious, areas_g, is_crowd_g, size, is_asked_g=is_asked_g)
            result.append((kind, group, of_image))
    return result


def _frequency(category_id: int | None, truth: TrueSet) -> str:
    category = None if category_id is None else truth.categories.get(category_id)
    return (category.frequency if category else None) or ""
