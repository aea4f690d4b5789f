"""Routes about annotations: made, changed, deleted, restored, and their history."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from anymask.server import masks
from anymask.server.routes_images import Id
from anymask.server.schemas import (
    MAX_ID,
    AnnotationEdit,
    AnnotationIn,
    AnnotationOut,
    AnnotationsOut,
    HistoryOut,
    RestoreIn,
)
from anymask.server.service import Given, Who

router = APIRouter(tags=["annotations"])


@router.get("/api/images/{image_id}/annotations")
def list_annotations(service: Given, image_id: Id, deleted: bool = False) -> AnnotationsOut:
    """The masks of an image, oldest first."""
    with service.store.reading() as session:
        image = masks.find_image(session, image_id)
        return AnnotationsOut(annotations=masks.list_annotations(session, image, deleted))


@router.post("/api/images/{image_id}/annotations", status_code=201, responses={200: {"model": AnnotationOut}})
def create_annotation(service: Given, who: Who, image_id: Id, new: AnnotationIn, response: Response) -> AnnotationOut:
    """Accept a mask. The same request again answers 200 and makes nothing new."""
    with service.changing(image_id, who) as (session, image):
        annotation, is_new = masks.create_annotation(session, image, who, new)
    response.status_code = 201 if is_new else 200
    return annotation


@router.get("/api/annotations/{annotation_id}")
def get_annotation(service: Given, annotation_id: UUID) -> AnnotationOut:
    """One annotation as it stands."""
    with service.store.reading() as session:
        return masks.annotation_out(*masks.find_annotation(session, str(annotation_id)))


@router.patch("/api/annotations/{annotation_id}")
def edit_annotation(service: Given, who: Who, annotation_id: UUID, edit: AnnotationEdit) -> AnnotationOut:
    """Change an annotation: its mask, class or status."""
    with service.store.writing() as session:
        return masks.edit_annotation(session, str(annotation_id), who, edit)


@router.delete("/api/annotations/{annotation_id}")
def delete_annotation(
    service: Given, who: Who, annotation_id: UUID, version: Annotated[int, Query(ge=1, le=MAX_ID)]
) -> AnnotationOut:
    """Take an annotation away; it can be restored."""
    with service.store.writing() as session:
        return masks.delete_annotation(session, str(annotation_id), who, version)


@router.post("/api/annotations/{annotation_id}/restore")
def restore_annotation(service: Given, who: Who, annotation_id: UUID, request: RestoreIn) -> AnnotationOut:
    """Undo a deletion."""
    with service.store.writing() as session:
        return masks.restore_annotation(session, str(annotation_id), who, request.version)


@router.get("/api/annotations/{annotation_id}/history")
def get_history(service: Given, annotation_id: UUID) -> HistoryOut:
    """Every step of an annotation, oldest first."""
    with service.store.reading() as session:
        return HistoryOut(edits=masks.annotation_history(session, str(annotation_id)))
