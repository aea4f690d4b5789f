"""The boundary benchmark of BSDS500 (Arbelaez, Maire, Fowlkes and Malik, 2011): precision and recall of edge maps.

At each of 99 thresholds the edge map is cut, thinned and matched with each annotator's boundaries on its own. Recall
counts the annotators' pixels that are matched, each annotator's apart; precision the map's pixels that any annotator
matches. ODS is the best F with one threshold for all images, OIS with each image's own best one, AP the area under the
curve of precision over recall, R50 the recall at half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anymask.errors import DataError
from anymask.evaluation.edges.matching import MAX_DISTANCE, TruthMatcher, match_radius
from anymask.geometry.boundaries import thin

THRESHOLD_COUNT = 99
# Between two thresholds the benchmark looks for the best F on the straight line of precision and recall.
_STEPS_BETWEEN = 100


def thresholds(count: int = THRESHOLD_COUNT) -> np.ndarray:
    """Evenly spaced levels strictly between 0 and 1, rising."""
    return np.linspace(1 / (count + 1), 1 - 1 / (count + 1), count)


@dataclass(frozen=True, eq=False)
class EdgeCounts:
    """What the benchmark counts, for each threshold (T,) int64.

    matched_truth of all_truth: the annotators' pixels, summed over annotators. matched_predicted of all_predicted:
    the map's pixels, a pixel counting as matched when any annotator's is its partner.
    """

    matched_truth: np.ndarray
    all_truth: np.ndarray
    matched_predicted: np.ndarray
    all_predicted: np.ndarray

    def __add__(self, other: EdgeCounts) -> EdgeCounts:
        return EdgeCounts.from_rows(self.rows() + other.rows())

    def rows(self) -> np.ndarray:
        """The four counts as (4, T)."""
        return np.stack([self.matched_truth, self.all_truth, self.matched_predicted, self.all_predicted])

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> EdgeCounts:
        """The reverse of `rows`."""
        matched_truth, all_truth, matched_predicted, all_predicted = np.asarray(rows, dtype=np.int64)
        return cls(matched_truth, all_truth, matched_predicted, all_predicted)

    @property
    def recall(self) -> np.ndarray:
        """(T,) in [0, 1]; 0 where no annotator drew anything."""
        return self.matched_truth / np.maximum(self.all_truth, 1)

    @property
    def precision(self) -> np.ndarray:
        """(T,) in [0, 1]; 0 where the map is empty."""
        return self.matched_predicted / np.maximum(self.all_predicted, 1)


@dataclass(frozen=True)
class EdgeScores:
    """The benchmark's figures, fractions in [0, 1]; `threshold` is where ODS is reached."""

    ods: float
    ois: float
    ap: float
    r50: float
    threshold: float
    precision: float
    recall: float


def count_image(
    edges_hw: np.ndarray, truths: Sequence[np.ndarray], levels: np.ndarray, max_distance: float = MAX_DISTANCE
) -> EdgeCounts:
    """The counts of one edge map (H, W) float in [0, 1] against the annotators' boundary maps (H, W) bool.

    Raises DataError when sizes differ or there is no annotator.
    """
    if not truths:
        raise DataError("truths is empty; allowed: one annotator's boundaries or more")
    matchers = [TruthMatcher(truth, match_radius(edges_hw.shape[:2], max_distance)) for truth in truths]
    rows = np.zeros((4, len(levels)), dtype=np.int64)
    before, counts = -1, (0, 0, 0, 0)
    for index, level in enumerate(levels):
        cut = edges_hw >= level
        if np.count_nonzero(cut) != before:  # a higher cut is a part of a lower one: as many pixels, the same pixels
            before = int(np.count_nonzero(cut))
            counts = _count_cut(thin(cut), matchers)
        rows[:, index] = counts
    return EdgeCounts.from_rows(rows)


def count_boundary(predicted_hw: np.ndarray, truths: Sequence[np.ndarray]) -> EdgeCounts:
    """The counts of one boundary map (H, W) bool as it is, such as another annotator's: one threshold, no thinning."""
    matchers = [TruthMatcher(truth, match_radius(predicted_hw.shape[:2])) for truth in truths]
    return EdgeCounts.from_rows(np.array(_count_cut(predicted_hw, matchers))[:, None])


def score_edges(images: Sequence[EdgeCounts], levels: np.ndarray) -> EdgeScores:
    """The figures of a whole set. Raises DataError for no images."""
    if not images:
        raise DataError("images is empty; allowed: the counts of one image or more")
    total = EdgeCounts.from_rows(sum((image.rows() for image in images), np.zeros((4, len(levels)), np.int64)))
    precision, recall = total.precision, total.recall
    threshold, best_precision, best_recall = _best_between(levels, precision, recall)
    own = np.stack([image.rows()[:, int(f_measure(image.precision, image.recall).argmax())] for image in images])
    own_best = EdgeCounts.from_rows(own.sum(axis=0)[:, None])
    return EdgeScores(
        ods=float(f_measure(best_precision, best_recall)),
        ois=float(f_measure(own_best.precision, own_best.recall)[0]),
        ap=average_precision(precision, recall),
        r50=recall_at_half_precision(precision, recall),
        threshold=threshold,
        precision=best_precision,
        recall=best_recall,
    )


def f_measure(precision: np.ndarray | float, recall: np.ndarray | float) -> np.ndarray:
    """The harmonic mean, 0 where both are."""
    product, total = np.multiply(precision, recall), np.add(precision, recall)
    return np.divide(2 * product, total, out=np.zeros_like(total, dtype=np.float64), where=total > 0)


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """The area under precision over recall: the mean over recalls 0, 0.01 ... of the interpolated curve.

    Nothing is added where the curve does not reach (as the benchmark has it). A curve of a single point has no area
    but for its own recall, so a perfect map, whose curve is one point at (1, 1), counts as 1.
    """
    if (precision == 1).all() and (recall == 1).all():
        return 1.0
    own, first = np.unique(recall, return_index=True)
    if len(own) < 2:
        return 0.0
    wanted = np.linspace(0, 1, 101)
    area = np.interp(wanted, own, precision[first], left=0, right=0)
    return min(1.0, float(area.sum() / 100))


def recall_at_half_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """The recall where precision is 0.5, interpolated; the greatest there is where precision never falls so low."""
    own, last = np.unique(precision[::-1], return_index=True)
    recalls = recall[::-1][last]
    if own[-1] < 0.5:
        return 0.0
    return float(np.interp(max(own[0], 0.5), own, recalls))


def _count_cut(boundary_hw: np.ndarray, matchers: Sequence[TruthMatcher]) -> tuple[int, int, int, int]:
    matches = [matcher.match(boundary_hw) for matcher in matchers]
    return (
        sum(int(np.count_nonzero(match)) for match in matches),
        sum(matcher.pixel_count for matcher in matchers),
        int(np.count_nonzero(np.logical_or.reduce(matches))),
        int(np.count_nonzero(boundary_hw)),
    )


def _best_between(levels: np.ndarray, precision: np.ndarray, recall: np.ndarray) -> tuple[float, float, float]:
    """Threshold, precision and recall of the best F, thresholds in between included."""
    places = np.arange(len(levels))
    fine = np.linspace(0, len(levels) - 1, (len(levels) - 1) * _STEPS_BETWEEN + 1) if len(levels) > 1 else places
    all_levels, all_precision, all_recall = (np.interp(fine, places, values) for values in (levels, precision, recall))
    best = int(f_measure(all_precision, all_recall).argmax())
    return float(all_levels[best]), float(all_precision[best]), float(all_recall[best])
