"""How good are automatic masks? The same masks after people corrected them say it (paper, section 5).

The paper's audit: professionals improved all masks of 500 images, about 50,000; 94% of the pairs have an IoU
above 0.90 and 97% above 0.75. (It takes the agreement of annotators with one another from others' work: IoU
0.85 to 0.91.) Masks are paired by id, as a tool keeps it that edits them, or by overlap. A mask that the
correctors removed counts with IoU 0; one that they added has no pair, and is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from anymask.data.annotated import AnnotatedImage
from anymask.errors import DataError
from anymask.evaluation.average_precision import SIZES
from anymask.evaluation.intervals import Interval, bootstrap_mean
from anymask.evaluation.plots import figure_class, save_figure
from anymask.evaluation.report import COLOURS, markdown_table, percent, write_report
from anymask.geometry.rle import checked_rle
from anymask.records import MaskRecord

PAIRINGS = ("id", "overlap")
# Share of pairs above an IoU in SA-1B (paper, section 5).
PUBLISHED = {0.90: 0.94, 0.75: 0.97}


@dataclass(frozen=True)
class SizeQuality:
    """Of the automatic masks of one size: how many, mean and median IoU, and the shares above an IoU."""

    masks: int
    mean_iou: float
    median_iou: float
    above: dict[str, Interval]


@dataclass(frozen=True)
class QualityResults:
    """The audit's result, by size ("all", "small", "medium", "large": COCO's areas of the automatic mask).

    unchanged: automatic masks that came back as they were; removed: that have no partner; added: corrected ones
    without partner. ious: of all automatic masks, rising.
    """

    images: int
    pairing: str
    unchanged: int
    removed: int
    added: int
    sizes: dict[str, SizeQuality]
    ious: tuple[float, ...]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows in per cent, with 95% intervals (images drawn as wholes), and the paper's row."""
        header = ["masks", "count", *(f"IoU > {limit:.2f}" for limit in PUBLISHED), "mean IoU", "median IoU"]
        rows = [["SA-1B (paper)", "50,000", *(percent(share) for share in PUBLISHED.values()), "-", "-"]]
        for size, of in self.sizes.items():
            shares = [interval.percents() for interval in of.above.values()]
            rows.append([size, f"{of.masks:,}", *shares, percent(of.mean_iou), percent(of.median_iou)])
        return header, rows

    def to_markdown(self) -> str:
        """A page with the table and the counts."""
        return (
            f"# Quality of automatic masks\n\n{markdown_table(*self.table())}\n"
            f"Per cent, with 95% intervals. {self.images:,} images, masks paired by {self.pairing}: {self.unchanged:,} "
            f"unchanged, {self.removed:,} removed (they count with IoU 0), {self.added:,} added.\n"
        )


def evaluate_quality(
    automatic: Iterable[AnnotatedImage], corrected: Iterable[AnnotatedImage], out: str | Path, pairing: str = "id"
) -> QualityResults:
    """Compare automatic masks with corrected ones and write out/quality.json, quality.md and quality.png.

    Images are paired by file name without suffix; those that were not corrected are left out. `pairing` is
    "id" or "overlap" (the assignment with the greatest sum of IoU, which needs SciPy). Raises DataError when
    no image was corrected, the sizes of one differ, or there are no masks.
    """
    if pairing not in PAIRINGS:
        raise DataError(f"pairing is {pairing!r}; allowed: {' or '.join(PAIRINGS)}")
    after = {image.stem: image for image in corrected}
    names: list[str] = []
    areas: list[int] = []
    ious: list[float] = []
    images = unchanged = removed = added = 0
    for image in automatic:
        other = after.get(image.stem)
        if other is None:
            continue
        images += 1
        pairs = pair_masks(image, other, pairing)
        partners = {second for _, second, _ in pairs if second is not None}
        added += len(other.records) - len(partners)
        removed += sum(second is None for _, second, _ in pairs)
        unchanged += sum(second is not None and iou == 1 for _, second, iou in pairs)
        for first, _, iou in pairs:
            names.append(image.stem)
            areas.append(image.records[first].area)
            ious.append(iou)
    if not ious:
        raise DataError(f"{images} images are in both sets and have no masks; allowed: images of the same names")
    sizes = _by_size(np.array(names), np.array(areas), np.array(ious))
    results = QualityResults(images, pairing, unchanged, removed, added, sizes, tuple(sorted(ious)))
    content: dict[str, Any] = {
        **asdict(results),
        "published": {f"above {limit}": share for limit, share in PUBLISHED.items()},
    }
    write_report(out, content, results.to_markdown(), "quality")
    _plot(results, Path(out) / "quality.png")
    return results


def pair_masks(
    automatic: AnnotatedImage, corrected: AnnotatedImage, pairing: str
) -> list[tuple[int, int | None, float]]:
    """For each automatic mask its place, its partner's among the corrected ones (None: removed), and their IoU.

    Raises DataError when the images differ in size.
    """
    if automatic.size_hw != corrected.size_hw:
        raise DataError(f"{automatic.file_name} is {automatic.size_hw} (h, w), corrected {corrected.size_hw}")
    partner_of = (_by_id if pairing == "id" else _by_overlap)(automatic.records, corrected.records)
    pairs: list[tuple[int, int | None, float]] = []
    for first, record in enumerate(automatic.records):
        second = partner_of.get(first)
        iou = 0.0 if second is None else float(_ious([record], [corrected.records[second]])[0, 0])
        pairs.append((first, second, iou))
    return pairs


def _by_id(automatic: Sequence[MaskRecord], corrected: Sequence[MaskRecord]) -> dict[int, int]:
    places = {record.id: place for place, record in enumerate(corrected)}
    return {first: places[record.id] for first, record in enumerate(automatic) if record.id in places}


def _by_overlap(automatic: Sequence[MaskRecord], corrected: Sequence[MaskRecord]) -> dict[int, int]:
    from scipy.optimize import linear_sum_assignment

    ious = _ious(automatic, corrected)
    pairs = zip(*linear_sum_assignment(-ious), strict=True)
    return {int(first): int(second) for first, second in pairs if ious[first, second] > 0}


def _ious(automatic: Sequence[MaskRecord], corrected: Sequence[MaskRecord]) -> np.ndarray:
    """(K, L) float64."""
    if not automatic or not corrected:
        return np.zeros((len(automatic), len(corrected)))
    first, second = ([checked_rle(record.segmentation) for record in records] for records in (automatic, corrected))
    return np.asarray(coco_mask.iou(first, second, [0] * len(second)), dtype=np.float64)


def _by_size(names: np.ndarray, areas: np.ndarray, ious: np.ndarray) -> dict[str, SizeQuality]:
    result = {}
    for size, (low, high) in SIZES.items():
        chosen = (areas >= low) & (areas <= high)
        if chosen.any():
            own, of_image = ious[chosen], names[chosen].tolist()
            above = {f"{limit:.2f}": bootstrap_mean(own > limit, of_image) for limit in PUBLISHED}
            result[size] = SizeQuality(int(chosen.sum()), float(own.mean()), float(np.median(own)), above)
    return result


def _plot(results: QualityResults, path: Path) -> None:
    """The share of masks above every IoU, with the paper's two points."""
    figure = figure_class()(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    ious = np.array(results.ious)
    axes.step([0, *ious, 1], [100, *(100 * (1 - np.arange(len(ious)) / len(ious))), 0], where="pre", color=COLOURS[0])
    axes.scatter(list(PUBLISHED), [100 * share for share in PUBLISHED.values()], color="#555b63", zorder=3)
    for limit, share in PUBLISHED.items():
        axes.annotate(f"SA-1B {100 * share:.0f}%", (limit, 100 * share), (-58, -14), textcoords="offset points")
    axes.set(xlabel="IoU of automatic and corrected mask", ylabel="masks above (%)", xlim=(0, 1), ylim=(0, 104))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
