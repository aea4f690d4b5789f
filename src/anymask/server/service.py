"""What the routes share: one folder, its store and its model at work, and who is asking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Header, Request
from sqlalchemy.orm import Session

from anymask.data.images import image_size_hw
from anymask.errors import AnymaskError
from anymask.server.errors import invalid
from anymask.server.images import ImageDesk
from anymask.server.masks import find_image
from anymask.server.scan import safe_path
from anymask.server.schemas import is_plain_text
from anymask.server.store import Store
from anymask.server.studio import Picture, Studio
from anymask.server.tables import ImageRow

# Embeddings are made for so many images after the one an annotator has (assumed: more than a lunch break's work).
IMAGES_AHEAD = 8


@dataclass(frozen=True)
class Rules:
    """What can be set for an annotation server; sizes in bytes.

    annotator: who is asking where the request does not say. identify: a host application's own way to know, from the
    request to a name. seconds_per_mask: the paper's rule for moving on (section 4).
    """

    annotator: str = "annotator"
    identify: Callable[[Request], str] | None = None
    labels: tuple[str, ...] = ()
    seconds_per_mask: float = 30.0
    lease_seconds: float = 600.0
    body_bytes: int = 16_000_000
    draft_bytes: int = 1_000_000
    upload_bytes: int = 64_000_000
    upload_pixels: int = 50_000_000


@dataclass
class Service:
    """One folder being annotated."""

    folder: Path
    cache: Path
    store: Store
    studio: Studio
    rules: Rules
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desk = ImageDesk(self.rules.lease_seconds, self.studio.frame, self._embedding_state)

    def picture(self, row: ImageRow) -> Picture:
        """The file of an image. Refused (422) when it is gone, broken, or another one than its masks are of."""
        path = safe_path(self.folder, row.file_name)
        if path is None:
            raise invalid(f"{row.file_name} is gone")
        status = path.stat()
        witness = f"{status.st_size}:{status.st_mtime_ns}"
        if witness != row.witness:
            try:
                size_hw = image_size_hw(path)
            except AnymaskError as error:
                raise invalid(str(error).replace(str(path), path.name)) from error
            if size_hw != row.size_hw:
                raise invalid(f"{row.file_name} has another size now than its masks")
        return Picture(row.id, path, witness)

    def find_picture(self, image_id: int) -> Picture:
        """The file of an image by its id."""
        with self.store.reading() as session:
            return self.picture(find_image(session, image_id))

    def prepare_from(self, session: Session, image: ImageRow, who: str) -> None:
        """Have the embeddings of this image and of those that come next made ahead."""
        rows = [image, *self.desk.upcoming(session, who, image.id, IMAGES_AHEAD)]
        pictures = []
        for row in rows:
            path = safe_path(self.folder, row.file_name)
            if path is not None and row.state != "broken":
                pictures.append(Picture(row.id, path, row.witness))
        self.studio.prepare(pictures)

    @contextmanager
    def changing(self, image_id: int, who: str) -> Iterator[tuple[Session, ImageRow]]:
        """A transaction about one image, which also keeps the annotator's lease on it alive."""
        with self.store.writing() as session:
            image = find_image(session, image_id)
            yield session, image
            self.desk.renew(session, image, who)

    def close(self) -> None:
        """Finish what is in hand and let go of the store."""
        self.studio.close()
        self.store.close()

    def _embedding_state(self, row: ImageRow) -> str:
        return self.studio.state(Picture(row.id, self.folder / row.file_name, row.witness))


def get_service(request: Request) -> Service:
    """The service of the app that answers."""
    service: Service = request.app.state.service
    return service


Given = Annotated[Service, Depends(get_service)]


def get_annotator(
    request: Request,
    service: Given,
    x_annotator: Annotated[str | None, Header(description="who asks: percent-encoded, 1 to 64 characters")] = None,
) -> str:
    """Who is asking: as the host application says, else as the request says, else the default."""
    if service.rules.identify is not None:
        return service.rules.identify(request)[:64]
    if x_annotator is None:
        return service.rules.annotator
    name = unquote(x_annotator).strip()
    if not 1 <= len(name) <= 64 or not is_plain_text(name):
        raise invalid("X-Annotator is no name; allowed: 1 to 64 characters, percent-encoded UTF-8")
    return name


Who = Annotated[str, Depends(get_annotator)]
