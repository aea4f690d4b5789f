"""Masks in the store: made, changed, deleted and restored, each once however often the request arrives.

Every change asks for the version that was seen; a change by somebody else in between is a conflict that carries the
current state. A request that arrives again is known by its key and gets the current state.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from anymask.errors import DataError
from anymask.geometry.rle import Rle, checked_rle, rle_area, rle_size_hw, rle_to_box_xywh
from anymask.server.errors import RefusedError, invalid, not_found
from anymask.server.schemas import (
    AnnotationEdit,
    AnnotationIn,
    AnnotationOut,
    EditOut,
    LogEntry,
    RleIn,
    RleOut,
)
from anymask.server.store import now
from anymask.server.tables import AnnotationRow, DraftRow, EditRow, ImageRow

CLICK_KINDS = ("point", "box")


def find_image(session: Session, image_id: int) -> ImageRow:
    """The image, or the refusal that says there is none."""
    image = session.get(ImageRow, image_id)
    if image is None:
        raise not_found(f"image {image_id}")
    return image


def find_annotation(session: Session, annotation_id: str) -> tuple[AnnotationRow, ImageRow]:
    """The annotation, locked until the transaction ends, with its image."""
    annotation = session.get(AnnotationRow, annotation_id, with_for_update=True)
    if annotation is None:
        raise not_found(f"annotation {annotation_id}")
    return annotation, session.get_one(ImageRow, annotation.image_id)


def list_annotations(session: Session, image: ImageRow, with_deleted: bool) -> list[AnnotationOut]:
    """The masks of an image, oldest first."""
    query = select(AnnotationRow).where(AnnotationRow.image_id == image.id)
    if not with_deleted:
        query = query.where(AnnotationRow.status != "deleted")
    rows = session.scalars(query.order_by(AnnotationRow.created_at, AnnotationRow.id))
    return [annotation_out(row, image) for row in rows]


def create_annotation(session: Session, image: ImageRow, who: str, new: AnnotationIn) -> tuple[AnnotationOut, bool]:
    """Store an accepted mask; gives it and whether it is new (False: the same request came before)."""
    key = _creation_key(image, new)
    present = session.get(AnnotationRow, str(new.id), with_for_update=True)
    if present is not None:
        first = session.get_one(EditRow, (present.id, 1))
        own = session.get_one(ImageRow, present.image_id)
        if first.request_key != key:
            raise _conflict("exists", f"annotation {new.id} is there already, with other content", present, own)
        return annotation_out(present, own), False
    rle = _checked_mask(new.segmentation, image)
    moment = now()
    annotation = AnnotationRow(
        id=str(new.id),
        image_id=image.id,
        version=0,
        status="accepted",
        stage=new.stage,
        counts=rle["counts"],
        area=rle_area(rle),
        category=new.category,
        predicted_iou=new.predicted_iou,
        fixed=False,
        facts={},
        clicks=0,
        duration_s=0.0,
        created_at=moment,
        created_by=who,
        changed_at=moment,
        changed_by=who,
    )
    session.add(annotation)
    _record(session, annotation, who, key, "create", new.log, new.duration_s, new.model_fingerprint)
    return annotation_out(annotation, image), True


def edit_annotation(session: Session, annotation_id: str, who: str, edit: AnnotationEdit) -> AnnotationOut:
    """Change what is given of an annotation."""
    annotation, image = find_annotation(session, annotation_id)
    key = str(edit.edit_id)
    if _has_edit(session, annotation, key):
        return annotation_out(annotation, image)
    _require_version(annotation, image, edit.version)
    given = edit.model_fields_set
    kind = "change"
    if "segmentation" in given and edit.segmentation is not None:
        rle = _checked_mask(edit.segmentation, image)
        if rle["counts"] != annotation.counts:
            annotation.counts, annotation.area, annotation.fixed = rle["counts"], rle_area(rle), True
    if "category" in given:
        annotation.category = edit.category
    if "predicted_iou" in given:
        annotation.predicted_iou = edit.predicted_iou
    if edit.status is not None and edit.status != annotation.status:
        kind = {"accepted": "accept", "deleted": "delete"}.get(edit.status, "change")
        if annotation.status == "deleted":
            kind = "restore"
        _set_status(annotation, edit.status)
    _record(session, annotation, who, key, kind, edit.log, edit.duration_s, edit.model_fingerprint)
    return annotation_out(annotation, image)


def delete_annotation(session: Session, annotation_id: str, who: str, version: int) -> AnnotationOut:
    """Take an annotation away; it stays in the store and can be restored. Deleted already is fine."""
    annotation, image = find_annotation(session, annotation_id)
    if annotation.status != "deleted":
        _require_version(annotation, image, version)
        _set_status(annotation, "deleted")
        _record(session, annotation, who, f"delete:{version}", "delete")
    return annotation_out(annotation, image)


def restore_annotation(session: Session, annotation_id: str, who: str, version: int) -> AnnotationOut:
    """Undo a deletion. Not deleted is fine."""
    annotation, image = find_annotation(session, annotation_id)
    if annotation.status == "deleted":
        _require_version(annotation, image, version)
        _set_status(annotation, annotation.status_before or "accepted")
        _record(session, annotation, who, f"restore:{version}", "restore")
    return annotation_out(annotation, image)


def accept_proposed(session: Session, image: ImageRow, who: str) -> None:
    """Accept every proposal of an image as it is."""
    query = select(AnnotationRow).where(AnnotationRow.image_id == image.id, AnnotationRow.status == "proposed")
    for annotation in session.scalars(query.with_for_update()).all():
        _set_status(annotation, "accepted")
        _record(session, annotation, who, f"accept:{annotation.version}", "accept")


def annotation_history(session: Session, annotation_id: str) -> list[EditOut]:
    """Every step of an annotation, oldest first."""
    annotation = session.get(AnnotationRow, annotation_id)
    if annotation is None:
        raise not_found(f"annotation {annotation_id}")
    image = session.get_one(ImageRow, annotation.image_id)
    rows = session.scalars(select(EditRow).where(EditRow.annotation_id == annotation_id).order_by(EditRow.version))
    return [
        EditOut(
            version=row.version,
            kind=row.kind,
            at=row.at,
            by=row.who,
            status=row.status,  # type: ignore[arg-type]
            segmentation=RleOut(size=[image.height, image.width], counts=row.counts),
            category=row.category,
            log=row.log,
            duration_s=row.duration_s,
            model_fingerprint=row.model_fingerprint,
        )
        for row in rows
    ]


def annotation_out(row: AnnotationRow, image: ImageRow) -> AnnotationOut:
    """An annotation as it goes over the wire."""
    size = [image.height, image.width]
    return AnnotationOut(
        id=row.id,
        image_id=row.image_id,
        version=row.version,
        status=row.status,  # type: ignore[arg-type]
        stage=row.stage,  # type: ignore[arg-type]
        segmentation=RleOut(size=size, counts=row.counts),
        area=row.area,
        bbox=list(rle_to_box_xywh({"size": size, "counts": row.counts})),
        category=row.category,
        predicted_iou=row.predicted_iou,
        fixed=row.fixed,
        clicks=row.clicks,
        duration_s=row.duration_s,
        created_at=row.created_at,
        created_by=row.created_by,
        changed_at=row.changed_at,
        changed_by=row.changed_by,
        model_fingerprint=row.model_fingerprint,
    )


def _checked_mask(sent: RleIn, image: ImageRow) -> Rle:
    """The code of a mask as the store keeps it: of the image's size and not empty."""
    code: dict[str, Any] = {"size": sent.size, "counts": sent.counts}
    try:
        if rle_size_hw(code) != image.size_hw:
            raise invalid(f"segmentation size is {sent.size}; allowed: the image's [{image.height}, {image.width}]")
        rle = checked_rle(code)
        if rle_area(rle) == 0:
            raise invalid("segmentation is an empty mask; allowed: at least one pixel")
    except DataError as error:
        raise invalid(f"segmentation: {error}") from error
    return rle


def _record(
    session: Session,
    annotation: AnnotationRow,
    who: str,
    key: str,
    kind: str,
    log: list[LogEntry] | None = None,
    duration_s: float = 0.0,
    model_fingerprint: str | None = None,
) -> None:
    """Make the annotation's next version, write it into the history, and drop the draft that led to it."""
    entries = [entry.model_dump(exclude_none=True) for entry in log or []]
    clicks = sum(entry["kind"] in CLICK_KINDS for entry in entries)
    annotation.version += 1
    annotation.clicks += clicks
    annotation.duration_s += duration_s
    annotation.model_fingerprint = model_fingerprint or annotation.model_fingerprint
    annotation.changed_at, annotation.changed_by = now(), who
    session.flush()
    session.add(
        EditRow(
            annotation_id=annotation.id,
            version=annotation.version,
            request_key=key,
            kind=kind,
            at=annotation.changed_at,
            who=who,
            status=annotation.status,
            counts=annotation.counts,
            category=annotation.category,
            log=entries,
            clicks=clicks,
            duration_s=duration_s,
            model_fingerprint=model_fingerprint,
        )
    )
    session.execute(
        delete(DraftRow).where(
            DraftRow.image_id == annotation.image_id,
            DraftRow.annotator == who,
            DraftRow.annotation_id == annotation.id,
        )
    )
    session.flush()


def _set_status(annotation: AnnotationRow, status: str) -> None:
    annotation.status_before, annotation.status = annotation.status, status


def _require_version(annotation: AnnotationRow, image: ImageRow, version: int) -> None:
    if annotation.version != version:
        detail = f"annotation {annotation.id} is at version {annotation.version}, not {version}"
        raise _conflict("version", detail, annotation, image)


def _conflict(code: str, detail: str, annotation: AnnotationRow, image: ImageRow) -> RefusedError:
    current = annotation_out(annotation, image).model_dump(mode="json")
    return RefusedError(409, code, detail, current=current)


def _has_edit(session: Session, annotation: AnnotationRow, key: str) -> bool:
    query = select(EditRow.version).where(EditRow.annotation_id == annotation.id, EditRow.request_key == key)
    return session.scalar(query) is not None


def _creation_key(image: ImageRow, new: AnnotationIn) -> str:
    content = json.dumps([image.id, new.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
