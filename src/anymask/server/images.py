"""Images in the store: the list, the queue with its leases, drafts of unfinished masks, and what is done.

A lease keeps two annotators from being given the same image. It never stands in the way of a write: a mask accepted
after the lease ran out is kept all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, delete, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from anymask.geometry.resize import Frame
from anymask.server.errors import RefusedError
from anymask.server.masks import accept_proposed
from anymask.server.schemas import CountsOut, DoneIn, DraftIn, FrameOut, ImageOut, LeaseOut
from anymask.server.store import now
from anymask.server.tables import AnnotationRow, DraftRow, ImageRow, LeaseRow


class ImageDesk:
    """What annotators do with images, under one set of rules.

    lease_seconds: how long an image stays with whoever has it. frame_of: a size (h, w) to its place in the model's
    input; embedding_of: an image to the state of its embedding.
    """

    def __init__(
        self,
        lease_seconds: float,
        frame_of: Callable[[tuple[int, int]], Frame],
        embedding_of: Callable[[ImageRow], str],
    ) -> None:
        self.lease_seconds = lease_seconds
        self._frame_of = frame_of
        self._embedding_of = embedding_of

    def describe(self, session: Session, images: Sequence[ImageRow], who: str) -> list[ImageOut]:
        """Images as they go over the wire, in their order."""
        ids = [image.id for image in images]
        query = (
            select(AnnotationRow.image_id, AnnotationRow.status, func.count())
            .where(AnnotationRow.image_id.in_(ids), AnnotationRow.status != "deleted")
            .group_by(AnnotationRow.image_id, AnnotationRow.status)
        )
        counts = {(image_id, status): count for image_id, status, count in session.execute(query)}
        live = select(LeaseRow).where(LeaseRow.image_id.in_(ids), LeaseRow.expires_at > now())
        leases = {lease.image_id: lease for lease in session.scalars(live)}
        return [
            ImageOut(
                id=image.id,
                file_name=image.file_name,
                width=image.width,
                height=image.height,
                state=image.state,  # type: ignore[arg-type]
                problem=image.problem,
                masks=counts.get((image.id, "accepted"), 0),
                proposed=counts.get((image.id, "proposed"), 0),
                lease=_lease_out(leases.get(image.id), who),
                done_by=image.done_by,
                done_at=image.done_at,
                done_reason=image.done_reason,
                frame=_frame_out(self._frame_of(image.size_hw)),
                embedding=self._embedding_of(image),  # type: ignore[arg-type]
            )
            for image in images
        ]

    def describe_one(self, session: Session, image: ImageRow, who: str) -> ImageOut:
        """One image as it goes over the wire."""
        return self.describe(session, [image], who)[0]

    def lease(self, session: Session, image: ImageRow, who: str, take: bool = False) -> None:
        """Give an image to an annotator or renew it. Refused when somebody else has it, unless `take`."""
        moment = now()
        lease = session.get(LeaseRow, image.id, with_for_update=True)
        if lease is not None and lease.holder != who and lease.expires_at > moment and not take:
            current = self.describe_one(session, image, who).model_dump(mode="json")
            raise RefusedError(409, "leased", f"{lease.holder} has {image.file_name} open", current=current)
        self._write_lease(session, lease, image.id, who, moment)

    def renew(self, session: Session, image: ImageRow, who: str) -> None:
        """Keep an image that one has, or that nobody has; leave it with anybody else."""
        moment = now()
        lease = session.get(LeaseRow, image.id)
        if image.state == "open" and (lease is None or lease.holder == who or lease.expires_at <= moment):
            self._write_lease(session, lease, image.id, who, moment)

    def release(self, session: Session, image: ImageRow, who: str) -> None:
        """Give an image back; only one's own."""
        session.execute(delete(LeaseRow).where(LeaseRow.image_id == image.id, LeaseRow.holder == who))

    def next_image(self, session: Session, who: str, after: int | None) -> ImageRow | None:
        """Lease the next open image that nobody else holds and give back the others one holds.

        Without `after`: the one that `who` holds, else the first free one.
        """
        moment = now()
        free = _free_images(who, moment)
        image: ImageRow | None
        if after is None:
            own = free.where(LeaseRow.holder == who).order_by(LeaseRow.expires_at.desc())
            image = session.scalars(own.limit(1)).first()
        else:
            image = session.scalars(free.where(ImageRow.id > after).limit(1)).first()
        if image is None:
            image = session.scalars(free.limit(1)).first()
        session.execute(delete(LeaseRow).where(LeaseRow.holder == who))
        if image is not None:
            lease = session.get(LeaseRow, image.id, populate_existing=True)
            self._write_lease(session, lease, image.id, who, moment)
        return image

    def upcoming(self, session: Session, who: str, after: int, count: int) -> list[ImageRow]:
        """The images that `who` will be given after this one, if nobody else takes them."""
        free = _free_images(who, now()).where(ImageRow.id > after)
        return list(session.scalars(free.limit(count)))

    def finish(self, session: Session, image: ImageRow, who: str, how: DoneIn) -> None:
        """The annotator is done with an image: out of the queue, lease and draft gone."""
        if how.accept_proposed:
            accept_proposed(session, image, who)
        if image.state != "broken":
            image.state = "done"
        image.done_at, image.done_by, image.done_reason = now(), who, how.reason
        image.seconds = how.seconds if how.seconds is not None else image.seconds
        self.release(session, image, who)
        session.execute(delete(DraftRow).where(DraftRow.image_id == image.id, DraftRow.annotator == who))

    def reopen(self, session: Session, image: ImageRow) -> None:
        """Back into the queue."""
        if image.state == "done":
            image.state = "open"
        image.done_at = image.done_by = image.done_reason = None

    def _write_lease(self, session: Session, lease: LeaseRow | None, image_id: int, who: str, moment: datetime) -> None:
        expires_at = moment + timedelta(seconds=self.lease_seconds)
        if lease is None:
            session.add(LeaseRow(image_id=image_id, holder=who, expires_at=expires_at))
        else:
            lease.holder, lease.expires_at = who, expires_at
        session.flush()


def count_all(session: Session) -> CountsOut:
    """How far the folder is."""
    states = _counts(session, ImageRow.state)
    masks = _counts(session, AnnotationRow.status)
    return CountsOut(
        images=sum(states.values()),
        open=states.get("open", 0),
        done=states.get("done", 0),
        broken=states.get("broken", 0),
        masks=masks.get("accepted", 0),
        proposed=masks.get("proposed", 0),
    )


def _counts(session: Session, column: InstrumentedAttribute[str]) -> dict[str, int]:
    query = select(column, func.count()).group_by(column)
    return {value: count for value, count in session.execute(query)}  # noqa: C416, rows are no pairs to dict()


def save_draft(session: Session, image: ImageRow, who: str, draft: DraftIn) -> DraftRow:
    """Keep the unfinished mask. A revision that is not newer is a conflict, unless it is the same again."""
    content = json.dumps(draft.content)  # ASCII, so that any character can be stored
    annotation_id = None if draft.annotation_id is None else str(draft.annotation_id)
    row = session.get(DraftRow, (image.id, who), with_for_update=True)
    if row is None:
        row = DraftRow(image_id=image.id, annotator=who, revision=-1)
        session.add(row)
    elif (row.revision, row.content, row.annotation_id) == (draft.revision, content, annotation_id):
        return row
    elif draft.revision <= row.revision:
        detail = f"revision is {draft.revision}; the stored draft is at {row.revision}"
        raise RefusedError(409, "revision", detail, current=draft_out(row))
    row.revision, row.content, row.annotation_id, row.saved_at = draft.revision, content, annotation_id, now()
    session.flush()
    return row


def draft_out(row: DraftRow | None) -> dict[str, object] | None:
    """A draft as it goes over the wire."""
    if row is None:
        return None
    return {
        "annotation_id": row.annotation_id,
        "revision": row.revision,
        "content": json.loads(row.content),
        "saved_at": row.saved_at.isoformat(),
    }


def _free_images(who: str, moment: datetime) -> Select[Any]:
    is_free = or_(LeaseRow.image_id.is_(None), LeaseRow.holder == who, LeaseRow.expires_at <= moment)
    return (
        select(ImageRow)
        .outerjoin(LeaseRow, LeaseRow.image_id == ImageRow.id)
        .where(and_(ImageRow.state == "open", is_free))
        .order_by(ImageRow.id)
    )


def _lease_out(lease: LeaseRow | None, who: str) -> LeaseOut | None:
    if lease is None:
        return None
    return LeaseOut(holder=lease.holder, mine=lease.holder == who, expires_at=lease.expires_at)


def _frame_out(frame: Frame) -> FrameOut:
    return FrameOut(original_hw=frame.original_hw, resized_hw=frame.resized_hw, padded_hw=frame.padded_hw)
