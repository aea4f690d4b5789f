"""Routes about images: the list, the queue, leases, pictures, drafts, and what is done."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse
from sqlalchemy import delete, func, select

from anymask.server.errors import AsciiJson, RefusedError, invalid
from anymask.server.images import draft_out, save_draft
from anymask.server.masks import find_image
from anymask.server.pictures import MAX_SIDE, browser_picture, etag
from anymask.server.schemas import (
    MAX_ID,
    DoneIn,
    DraftIn,
    DraftSaved,
    ImageOut,
    ImagesOut,
    LeaseIn,
    NextIn,
    NextOut,
)
from anymask.server.service import Given, Who
from anymask.server.tables import DraftRow, ImageRow

router = APIRouter(tags=["images"])

Id = Annotated[int, Path(ge=1, le=MAX_ID)]


@router.get("/api/images")
def list_images(
    service: Given,
    who: Who,
    offset: Annotated[int, Query(ge=0, le=MAX_ID)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    state: Literal["open", "done", "broken"] | None = None,
) -> ImagesOut:
    """A page of the folder's images, by id."""
    with service.store.reading() as session:
        query, count = select(ImageRow), select(func.count()).select_from(ImageRow)
        if state is not None:
            query, count = query.where(ImageRow.state == state), count.where(ImageRow.state == state)
        rows = session.scalars(query.order_by(ImageRow.id).offset(offset).limit(limit)).all()
        total = session.scalar(count) or 0
        return ImagesOut(total=total, offset=offset, images=service.desk.describe(session, rows, who))


@router.get("/api/images/{image_id}")
def get_image(service: Given, who: Who, image_id: Id) -> ImageOut:
    """One image."""
    with service.store.reading() as session:
        return service.desk.describe_one(session, find_image(session, image_id), who)


@router.post("/api/queue/next")
def next_image(service: Given, who: Who, request: NextIn) -> NextOut:
    """Lease the next open image that nobody else holds; without `after`, the one that I hold."""
    with service.store.writing(in_turn=True) as session:
        image = service.desk.next_image(session, who, request.after)
        if image is None:
            return NextOut(image=None, lease=None)
        described = service.desk.describe_one(session, image, who)
    with service.store.reading() as session:
        service.prepare_from(session, image, who)
    return NextOut(image=described, lease=described.lease)


@router.post("/api/images/{image_id}/lease")
def lease_image(service: Given, who: Who, image_id: Id, request: LeaseIn | None = None) -> ImageOut:
    """Lease one image or renew the lease."""
    with service.store.writing(in_turn=True) as session:
        image = find_image(session, image_id)
        service.desk.lease(session, image, who, take=request is not None and request.take)
        described = service.desk.describe_one(session, image, who)
    with service.store.reading() as session:
        service.prepare_from(session, image, who)
    return described


@router.delete("/api/images/{image_id}/lease")
def release_image(service: Given, who: Who, image_id: Id) -> ImageOut:
    """Give an image back."""
    with service.store.writing() as session:
        image = find_image(session, image_id)
        service.desk.release(session, image, who)
        return service.desk.describe_one(session, image, who)


@router.post("/api/images/{image_id}/done")
def finish_image(service: Given, who: Who, image_id: Id, request: DoneIn | None = None) -> ImageOut:
    """Done with an image: out of the queue."""
    with service.store.writing() as session:
        image = find_image(session, image_id)
        service.desk.finish(session, image, who, request or DoneIn())
        return service.desk.describe_one(session, image, who)


@router.post("/api/images/{image_id}/reopen")
def reopen_image(service: Given, who: Who, image_id: Id) -> ImageOut:
    """Back into the queue."""
    with service.store.writing() as session:
        image = find_image(session, image_id)
        service.desk.reopen(session, image)
        return service.desk.describe_one(session, image, who)


@router.get("/api/images/{image_id}/picture", response_class=FileResponse)
def get_picture(
    service: Given, request: Request, image_id: Id, max_side: Annotated[int | None, Query(ge=32, le=MAX_SIDE)] = None
) -> Response:
    """The picture, upright, in a format that browsers show; `max_side` makes it smaller."""
    path, media_type = browser_picture(service.find_picture(image_id), service.cache, max_side)
    tag = etag(path, media_type)
    headers = {"etag": tag, "cache-control": "private, max-age=0, must-revalidate"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type=media_type, headers=headers)


@router.get("/api/images/{image_id}/draft", response_class=AsciiJson)
def get_draft(service: Given, who: Who, image_id: Id) -> AsciiJson:
    """My unfinished mask on this image, or null."""
    with service.store.reading() as session:
        find_image(session, image_id)
        return AsciiJson({"draft": draft_out(session.get(DraftRow, (image_id, who)))})


@router.put("/api/images/{image_id}/draft")
def put_draft(service: Given, who: Who, image_id: Id, draft: DraftIn) -> DraftSaved:
    """Keep my unfinished mask."""
    try:
        size = len(json.dumps(draft.content, allow_nan=False))
    except ValueError as error:
        raise invalid("content holds NaN or infinity, which is not JSON") from error
    if size > service.rules.draft_bytes:
        raise RefusedError(413, "too_large", f"content has {size} bytes; allowed: {service.rules.draft_bytes}")
    with service.changing(image_id, who) as (session, image):
        row = save_draft(session, image, who, draft)
        return DraftSaved(revision=row.revision, saved_at=row.saved_at)


@router.delete("/api/images/{image_id}/draft")
def delete_draft(service: Given, who: Who, image_id: Id) -> dict[str, None]:
    """Forget my unfinished mask."""
    with service.store.writing() as session:
        find_image(session, image_id)
        session.execute(delete(DraftRow).where(DraftRow.image_id == image_id, DraftRow.annotator == who))
    return {"draft": None}
