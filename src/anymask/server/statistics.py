"""How annotation goes, in the paper's own measures (section 4): time per mask, masks per image, clicks per mask."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from anymask.evaluation.plots import figure_class, save_figure
from anymask.server.tables import AnnotationRow, EditRow, ImageRow


@dataclass
class Tally:
    """The masks of one person on one day, or of all.

    A mask counts for whoever accepted it first, on that day, with all the time and clicks that went into it later
    too. seconds: of the masks that took any time at all (machines' take none).
    """

    masks: int = 0
    prefilled: int = 0
    edits: int = 0
    clicks: int = 0
    seconds: list[float] = field(default_factory=list)
    image_ids: set[int] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        """Counts and measures; None where there is nothing to measure."""
        own = self.masks - self.prefilled
        return {
            "masks": self.masks,
            "images": len(self.image_ids),
            "prefilled_accepted": self.prefilled,
            "seconds_per_mask": statistics.median(self.seconds) if self.seconds else None,
            "mean_seconds_per_mask": statistics.fmean(self.seconds) if self.seconds else None,
            "clicks_per_mask": self.clicks / own if own else None,
            "masks_per_image": self.masks / len(self.image_ids) if self.image_ids else None,
            "edits_per_mask": self.edits / self.masks if self.masks else None,
        }


@dataclass(frozen=True)
class AnnotationStatistics:
    """All masks together, and by (annotator, day as 2026-01-31)."""

    total: Tally
    rows: dict[tuple[str, str], Tally]
    images: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """As `GET api/stats` has it."""
        rows = [{"annotator": who, "day": day, **tally.to_json()} for (who, day), tally in self.rows.items()]
        return {"total": self.total.to_json(), "rows": rows, "images": self.images}


def collect_statistics(session: Session, zone: tzinfo | None = None) -> AnnotationStatistics:
    """The statistics of a store; days are those of `zone`, None for this machine's."""
    first: dict[str, Any] = {}
    seconds: dict[str, float] = defaultdict(float)
    clicks: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    annotations = {
        row.id: row
        for row in session.execute(
            select(AnnotationRow.id, AnnotationRow.image_id, AnnotationRow.stage).where(
                AnnotationRow.status == "accepted"
            )
        )
    }
    query = select(
        EditRow.annotation_id, EditRow.kind, EditRow.status, EditRow.at, EditRow.who, EditRow.duration_s, EditRow.clicks
    ).where(EditRow.kind != "prefill")
    for edit in session.execute(query.order_by(EditRow.version)):  # not by time: clocks are set back
        key = edit.annotation_id
        if key not in annotations:
            continue
        if edit.status == "accepted":
            first.setdefault(key, edit)
        seconds[key] += edit.duration_s
        clicks[key] += edit.clicks
        changes[key] += edit.kind in ("change", "restore", "delete")
    total = Tally()
    rows: dict[tuple[str, str], Tally] = defaultdict(Tally)
    for key, edit in first.items():
        for tally in (total, rows[edit.who, edit.at.astimezone(zone).date().isoformat()]):
            tally.masks += 1
            tally.prefilled += annotations[key].stage == "prefilled"
            tally.edits += changes[key]
            tally.clicks += clicks[key]
            tally.image_ids.add(annotations[key].image_id)
            if seconds[key] > 0:
                tally.seconds.append(seconds[key])
    images = Counter(session.scalars(select(ImageRow.state)))
    reasons = Counter(reason for reason in session.scalars(select(ImageRow.done_reason)) if reason is not None)
    return AnnotationStatistics(total, dict(sorted(rows.items(), key=_by_day)), {**images, **reasons})


def plot_annotation(collected: AnnotationStatistics, path: str | Path, title: str = "") -> None:
    """Draw time per mask, masks per image and clicks per mask over the days, a line for each person, as one PNG.

    Raises AnymaskError when matplotlib is not installed.
    """
    figure = figure_class()(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 2)
    total = collected.total
    figure.suptitle(f"{title + ': ' if title else ''}{total.masks:,} masks on {len(total.image_ids):,} images")
    days = sorted({day for _, day in collected.rows})
    people = list(dict.fromkeys(who for who, _ in collected.rows))
    panels = (
        (axes[0, 0], "seconds_per_mask", "time per mask (s, median)"),
        (axes[0, 1], "masks_per_image", "masks per image"),
        (axes[1, 0], "clicks_per_mask", "clicks per mask"),
        (axes[1, 1], "masks", "masks accepted"),
    )
    for panel, key, label in panels:
        for who in people:
            values = [(day, collected.rows[who, day].to_json()[key]) for day in days if (who, day) in collected.rows]
            shown = [(days.index(day), value) for day, value in values if value is not None]
            panel.plot(*_columns(shown), marker="o", markersize=5, label=who)
        panel.set(ylabel=label, xlim=(-0.5, max(0, len(days) - 1) + 0.5))
        panel.set_ylim(bottom=0)
        step = max(1, len(days) // 8)
        panel.set_xticks(range(0, len(days), step), days[::step], rotation=30)
        panel.grid(alpha=0.3)
    if people:
        axes[0, 0].legend(frameon=False)
    save_figure(figure, Path(path))


def _columns(pairs: Iterable[tuple[int, float]]) -> tuple[list[int], list[float]]:
    places, values = [], []
    for place, value in pairs:
        places.append(place)
        values.append(value)
    return places, values


def _by_day(entry: tuple[tuple[str, str], Tally]) -> tuple[str, str]:
    (who, day), _ = entry
    return day, who
