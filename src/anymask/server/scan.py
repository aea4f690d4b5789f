"""Taking in a folder: its pictures become rows, and masks that lie beside them become proposals.

Only files inside the folder count: a link that leads out of it is left out. A picture that is gone or broken keeps
its row and its masks, and says so.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from sqlalchemy import select

from anymask.data.annotated import AnnotatedImage, Problems
from anymask.data.coco import is_coco, read_coco
from anymask.data.formats import read_dataset
from anymask.data.images import image_size_hw, list_images
from anymask.data.sa1b import read_json, read_sa1b
from anymask.errors import AnymaskError, ImageError
from anymask.records import MaskRecord
from anymask.server.schemas import is_plain_text
from anymask.server.store import Store, now
from anymask.server.tables import AnnotationRow, EditRow, ImageRow

PREFILLED_BY = "prefill"
# Names the ids of prefilled masks after image and mask: two servers that start at once make the same ones.
_NAMESPACE = uuid.UUID("5f0c53d4-4c39-4f9a-9a6b-1e5b3a3f1f60")

Progress = Callable[[str, int, int], None]


def scan_folder(
    store: Store,
    folder: Path,
    *,
    recursive: bool = False,
    prefill: Path | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Bring the store up to date with a folder; gives what was found to be wrong, a line each.

    prefill: a data set in any format whose masks to propose; None looks for SA-1B's and COCO's JSON beside the
    pictures. `progress(what, done, total)` is called as it goes. Raises ImageError when there is no such folder.
    """
    progress = progress or (lambda what, done, total: None)
    problems: list[str] = []
    names = _find_names(folder, recursive, problems)
    with store.writing(in_turn=True) as session:
        known = {row.file_name: row for row in session.scalars(select(ImageRow))}
        for index, name in enumerate(names):
            progress("pictures", index + 1, len(names))
            row = known.get(name)
            if row is None:
                row = ImageRow(file_name=name, height=1, width=1, witness="", state="open", prefilled=False)
                session.add(row)
            _look_at(row, folder / name)
        for name in known.keys() - set(names):
            known[name].state, known[name].problem = "broken", "the file is gone"
            known[name].witness = ""
    _prefill(store, folder, prefill, problems, progress)
    return problems


def safe_path(folder: Path, file_name: str) -> Path | None:
    """Where a picture lies, or None when that is not a file inside the folder (any more)."""
    path = folder / file_name
    try:
        is_inside = path.resolve(strict=True).is_relative_to(folder.resolve()) and path.is_file()
    except OSError:
        return None
    return path if is_inside else None


def _find_names(folder: Path, recursive: bool, problems: list[str]) -> list[str]:
    names = []
    for path in list_images(folder, recursive):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts):
            continue
        name = relative.as_posix()
        if not is_plain_text(name) or len(name) > 1024:
            problems.append(f"{os.fsencode(path)!r}: has a name that cannot be stored; rename it")
        elif safe_path(folder, name) is None:
            problems.append(f"{name}: is a link that leads out of the folder; left out")
        else:
            names.append(name)
    return names


def _look_at(row: ImageRow, path: Path) -> None:
    """Size and state of a picture whose file changed since it was last looked at."""
    try:
        status = path.stat()
        witness = f"{status.st_size}:{status.st_mtime_ns}"
        if witness == row.witness:
            return
        height, width = image_size_hw(path)
        if row.witness and row.size_hw != (height, width):
            raise ImageError(f"is {width}x{height} now; its masks were made at {row.width}x{row.height}")
    except (OSError, AnymaskError) as error:
        row.state, row.problem = "broken", str(error).replace(str(path), path.name)
        return
    row.witness, row.problem = witness, None
    row.height, row.width = height, width
    row.state = "open" if row.done_at is None else "done"


def _prefill(store: Store, folder: Path, prefill: Path | None, problems: list[str], progress: Progress) -> None:
    with store.reading() as session:
        masked = set(session.scalars(select(AnnotationRow.image_id).distinct()))
        rows = session.scalars(select(ImageRow).where(ImageRow.prefilled.is_(False), ImageRow.state == "open"))
        waiting = {row.file_name: row.id for row in rows if row.id not in masked}
    if not waiting:
        return
    found = Problems(collect=True)
    images = _prefilled_images(folder, prefill, waiting, found)
    done = 0
    for name, image in _wanted(images, folder, waiting):
        with store.writing(in_turn=True) as session:
            row = session.get_one(ImageRow, waiting[name])
            if row.prefilled:  # by another server, a moment ago
                continue
            if image.size_hw != row.size_hw:
                found.found.append(f"{name}: its masks are {image.size_hw}, the picture {row.size_hw}; not taken in")
                continue
            for record in image.records:
                session.add_all(_proposal(row, record))
            row.prefilled = True
            del waiting[name]
        done += 1
        progress("masks beside pictures", done, done + len(waiting))
    problems.extend(found.found)


def _prefilled_images(
    folder: Path, prefill: Path | None, names: Iterable[str], problems: Problems
) -> Iterator[AnnotatedImage]:
    if prefill is not None:
        yield from read_dataset(prefill, images_dir=folder, problems=problems)
        return
    for directory in sorted({PurePosixPath(name).parent.as_posix() for name in names}):
        yield from read_sa1b(folder / directory, problems=problems)
    for path in sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")]):
        with problems.at(path):
            if is_coco(read_json(path)):
                yield from read_coco(path, None, problems)


def _wanted(
    images: Iterable[AnnotatedImage], folder: Path, waiting: dict[str, int]
) -> Iterator[tuple[str, AnnotatedImage]]:
    """The images that are in the folder and wait for masks, with their names there."""
    inside = folder.resolve()
    for image in images:
        if image.image_path is None or not image.records:
            continue
        try:
            name = image.image_path.resolve().relative_to(inside).as_posix()
        except ValueError:
            continue
        if name in waiting:
            yield name, image


def _proposal(image: ImageRow, record: MaskRecord) -> Sequence[AnnotationRow | EditRow]:
    moment = now()
    key = str(uuid.uuid5(_NAMESPACE, f"{image.file_name}\n{record.id}"))
    category = record.category if record.category and is_plain_text(record.category) else None
    facts = {name: value for name, value in record.facts().items() if name not in ("category", "parent_id")}
    annotation = AnnotationRow(
        id=key,
        image_id=image.id,
        version=1,
        status="proposed",
        stage="prefilled",
        counts=record.segmentation["counts"],
        area=record.area,
        category=category[:100] if category else None,
        predicted_iou=record.predicted_iou,
        fixed=False,
        facts=facts,
        clicks=0,
        duration_s=0.0,
        created_at=moment,
        created_by=PREFILLED_BY,
        changed_at=moment,
        changed_by=PREFILLED_BY,
    )
    edit = EditRow(
        annotation_id=key,
        version=1,
        request_key="prefill",
        kind="prefill",
        at=moment,
        who=PREFILLED_BY,
        status="proposed",
        counts=annotation.counts,
        category=annotation.category,
        log=[],
        clicks=0,
        duration_s=0.0,
    )
    return annotation, edit
