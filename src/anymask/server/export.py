"""The store's masks out as files of a data set, at any time."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from anymask.data.annotated import AnnotatedImage
from anymask.data.formats import write_dataset
from anymask.records import MaskRecord
from anymask.server.scan import safe_path
from anymask.server.store import Store
from anymask.server.tables import AnnotationRow, EditRow, ImageRow

Include = Literal["accepted", "all"]
_IMAGES_AT_ONCE = 100


def exported_images(store: Store, folder: Path, include: Include = "accepted") -> Iterator[AnnotatedImage]:
    """The images that are done or have masks, by id, each with its masks oldest first; "all" adds proposals.

    A record's `extra` says which annotation it is, its stage, who made it, and its clicks and seconds.
    """
    statuses = ("accepted",) if include == "accepted" else ("accepted", "proposed")
    last = 0
    while True:  # a part at a time: neither all masks in memory, nor one transaction over a long export
        with store.reading() as session:
            query = select(ImageRow).where(ImageRow.id > last).order_by(ImageRow.id).limit(_IMAGES_AT_ONCE)
            images = session.scalars(query).all()
            if not images:
                return
            last = images[-1].id
            records = _records(session, [image.id for image in images], statuses)
        for image in images:
            if records[image.id] or image.done_at is not None:
                path = safe_path(folder, image.file_name)
                yield AnnotatedImage(image.file_name, image.size_hw, tuple(records[image.id]), path, image.id)


def export_zip(store: Store, folder: Path, format_name: Literal["sa1b", "coco"], include: Include) -> Path:
    """A new zip file of the annotations without pictures; whoever asks deletes it. Raises DataError."""
    handle, name = tempfile.mkstemp(suffix=".zip", prefix="anymask-")
    os.close(handle)
    target = Path(name)
    try:
        with tempfile.TemporaryDirectory(prefix="anymask-") as written:
            write_dataset(written, exported_images(store, folder, include), format_name, pictures="none")
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted(Path(written).rglob("*")):
                    if path.is_file():
                        archive.write(path, path.relative_to(written))
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def _records(session: Session, image_ids: list[int], statuses: tuple[str, ...]) -> dict[int, list[MaskRecord]]:
    query = (
        select(AnnotationRow, ImageRow)
        .join(ImageRow, ImageRow.id == AnnotationRow.image_id)
        .where(AnnotationRow.image_id.in_(image_ids), AnnotationRow.status.in_(statuses))
        .order_by(AnnotationRow.created_at, AnnotationRow.id)
    )
    rows = session.execute(query).all()
    points = _positive_points(session, image_ids)
    records: dict[int, list[MaskRecord]] = defaultdict(list)
    for annotation, image in rows:
        code = {"size": [image.height, image.width], "counts": annotation.counts}
        records[image.id].append(
            MaskRecord.from_rle(len(records[image.id]) + 1, code, **_facts(annotation, points.get(annotation.id)))
        )
    return records


def _facts(annotation: AnnotationRow, points: list[list[float]] | None) -> dict[str, Any]:
    extra = {
        "annotation_id": annotation.id,
        "stage": annotation.stage,
        "annotator": annotation.created_by,
        "clicks": annotation.clicks,
        "duration_s": round(annotation.duration_s, 3),
    }
    facts = dict(annotation.facts)
    for name in ("predicted_iou", "id", "segmentation", "area", "bbox"):
        facts.pop(name, None)
    known: dict[str, Any] = {"predicted_iou": annotation.predicted_iou, "category": annotation.category}
    if not annotation.fixed:  # what the file said of the mask holds as long as the mask is the same
        known["stability_score"] = facts.pop("stability_score", None)
        if crop := facts.pop("crop_box", None):
            known["crop_box_xywh"] = tuple(crop)
        known["point_coords"] = facts.pop("point_coords", None)
        extra = facts | extra
    if points:
        known["point_coords"] = points
    return known | {"extra": extra}


def _positive_points(session: Session, image_ids: list[int]) -> dict[str, list[list[float]]]:
    """The foreground clicks of each annotation, as SA-1B's point_coords have them."""
    query = (
        select(EditRow.annotation_id, EditRow.log)
        .join(AnnotationRow, AnnotationRow.id == EditRow.annotation_id)
        .where(AnnotationRow.image_id.in_(image_ids), EditRow.clicks > 0)
        .order_by(EditRow.annotation_id, EditRow.version)
    )
    points: dict[str, list[list[float]]] = defaultdict(list)
    for annotation_id, log in session.execute(query):
        points[annotation_id] += [
            entry["xy"] for entry in log if entry["kind"] == "point" and entry.get("label") == 1 and "xy" in entry
        ]
    return points
