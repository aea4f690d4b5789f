"""The tables of the annotation store. Every mask ever accepted is a row of `edits` and stays one.

Column types are those that SQLite and PostgreSQL share; run-length codes are COCO's compressed text, whose size is
the image's.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Float, ForeignKey, Index, Integer, MetaData, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """Times in UTC, with their zone in Python and without it in the table: SQLite knows no zones."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The tables' common ground."""

    metadata = MetaData(naming_convention=NAMING)


class ImageRow(Base):
    """One picture of the folder. state: open, done or broken; problem says why it is broken."""

    __tablename__ = "images"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    file_name: Mapped[str] = mapped_column(String(1024), unique=True)  # relative, with forward slashes
    height: Mapped[int] = mapped_column(Integer)
    width: Mapped[int] = mapped_column(Integer)
    witness: Mapped[str] = mapped_column(String(64))  # size and time of the file when it was last looked at
    state: Mapped[str] = mapped_column(String(16), index=True)
    problem: Mapped[str | None] = mapped_column(Text)
    prefilled: Mapped[bool] = mapped_column(default=False)  # masks beside it have been taken in
    done_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    done_by: Mapped[str | None] = mapped_column(String(64))
    done_reason: Mapped[str | None] = mapped_column(String(16))
    seconds: Mapped[float | None] = mapped_column(Float)  # that the annotator had it open

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.height, self.width


class AnnotationRow(Base):
    """One object's mask as it stands. status: proposed, accepted or deleted."""

    __tablename__ = "annotations"
    __table_args__ = (Index("ix_annotations_image_id_status", "image_id", "status"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    version: Mapped[int] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(String(16))
    status_before: Mapped[str | None] = mapped_column(String(16))  # what a restored one goes back to
    stage: Mapped[str] = mapped_column(String(24))
    counts: Mapped[str] = mapped_column(Text)
    area: Mapped[int] = mapped_column(Integer)
    category: Mapped[str | None] = mapped_column(String(100))
    predicted_iou: Mapped[float | None] = mapped_column(Float)
    fixed: Mapped[bool] = mapped_column(default=False)
    facts: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # what a file beside the image said besides
    clicks: Mapped[int] = mapped_column(Integer, default=0)
    duration_s: Mapped[float] = mapped_column(Float, default=0.0)
    model_fingerprint: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(String(64))
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    changed_by: Mapped[str] = mapped_column(String(64))


class EditRow(Base):
    """One step of an annotation's history: what it became, by whom, and the clicks that led there."""

    __tablename__ = "edits"

    # One version, one edit: two writers cannot both make the next version.
    annotation_id: Mapped[str] = mapped_column(ForeignKey("annotations.id"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    request_key: Mapped[str] = mapped_column(String(64))  # the same again is a repeated request
    kind: Mapped[str] = mapped_column(String(16))
    at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    who: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    counts: Mapped[str] = mapped_column(Text)
    category: Mapped[str | None] = mapped_column(String(100))
    log: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    clicks: Mapped[int] = mapped_column(Integer)
    duration_s: Mapped[float] = mapped_column(Float)
    model_fingerprint: Mapped[str | None] = mapped_column(String(64))


class LeaseRow(Base):
    """Who has an image open, and until when nobody else is given it."""

    __tablename__ = "leases"

    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"), primary_key=True)
    holder: Mapped[str] = mapped_column(String(64), index=True)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class DraftRow(Base):
    """One annotator's unfinished mask on an image; `content` is the page's own JSON, as text."""

    __tablename__ = "drafts"

    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"), primary_key=True)
    annotator: Mapped[str] = mapped_column(String(64), primary_key=True)
    annotation_id: Mapped[str | None] = mapped_column(String(36))
    revision: Mapped[int] = mapped_column(Integer)
    content: Mapped[str] = mapped_column(Text)
    saved_at: Mapped[datetime] = mapped_column(UtcDateTime)
