"""The masks of many images, one after the other or in several processes, each written as soon as it is found.

A run may be killed at any moment and be started again: an image is done when its annotation file is there, which
is written last and all at once. What a run was asked for is kept beside its results, so that no two settings mix.
"""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from anymask.data.annotated import UNNAMED, AnnotatedImage
from anymask.data.detections import DetectedImage
from anymask.data.formats import Pictures, find_format, write_dataset
from anymask.data.images import list_images, read_image
from anymask.data.png import TABLE_SUFFIX, write_overlay
from anymask.data.sa1b import read_json, read_sa1b, write_sa1b_image, write_text_atomically
from anymask.data.yolo import YAML_NAME, write_yolo
from anymask.errors import AnymaskError, DataError
from anymask.generator.finders import Everything, Finder, Job
from anymask.generator.generate import Progress
from anymask.model.checkpoints import fingerprint
from anymask.model.segmenter import Segmenter
from anymask.records import MaskRecord
from anymask.runtime.opening import load_model

# Kept in the output folder, hidden from readers of data sets: the settings, and the parts of a COCO file.
STATE_FOLDER = ".everything"


class OutputError(DataError):
    """Results that cannot be written: no other image's could be, either."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job: how many masks in how many seconds, or the reason why it was skipped."""

    job: Job
    masks: int = 0
    seconds: float = 0.0
    reason: str | None = None


@dataclass(frozen=True)
class FolderRun:
    """What to make of each image and where to write it.

    finder: what is looked for. format_name: sa1b, coco, yolo, png or labelme. pictures: whether images are copied or
    linked beside their masks. overlay: draw each into `overlays/NAME.jpg`.
    """

    out: Path
    finder: Finder = field(default_factory=Everything)
    format_name: str = "sa1b"
    model: str = "tiny"
    checkpoint: Path | None = None
    device: str = "auto"
    pictures: Pictures = "copy"
    overlay: bool = False

    def annotation_path(self, job: Job) -> Path:
        """The file whose being there says that the job's masks are done."""
        name = PurePosixPath(job.name)
        if self.format_name == "yolo":
            return self.out / "labels" / name.with_suffix(".txt")
        folder = self.out / STATE_FOLDER / "parts" if self.format_name == "coco" else self.out
        return folder / name.with_name(name.stem + (TABLE_SUFFIX if self.format_name == "png" else ".json"))

    def overlay_path(self, job: Job) -> Path:
        """Where the job's overlay lies."""
        return self.out / "overlays" / PurePosixPath(job.name).with_suffix(".jpg")

    def is_done(self, job: Job) -> bool:
        """Whether everything that is asked for of this image is there."""
        return self.annotation_path(job).exists() and (not self.overlay or self.overlay_path(job).exists())

    def load_model(self) -> Segmenter:
        """The model, on its device."""
        return load_model(self.model, checkpoint=self.checkpoint, device=self.device)

    def prepare(self, model: Segmenter, jobs: Sequence[Job], overwrite: bool = False) -> None:
        """Check that the run is possible and make the output folder; with `overwrite` nothing counts as done.

        Raises `DataError` when two images would have the same result, the output folder is an image's own, or
        it holds results that other settings, another model or nobody known made; `AnymaskError` for settings
        that cannot be.
        """
        find_format(self.format_name)
        self._require_own_place(jobs)
        own = {"format": self.format_name, "model": f"{model.name} {fingerprint(model)}"}
        settings = {**own, **self.finder.settings(model)}
        path = self.out / STATE_FOLDER / "settings.json"
        if overwrite:
            for job in jobs:
                self.annotation_path(job).unlink(missing_ok=True)
        elif path.exists():
            made_with = dict(read_json(path))
            changed = [key for key in {**made_with, **settings} if settings.get(key) != made_with.get(key)]
            if changed:
                told = ", ".join(f"{key} was {made_with.get(key)!r}, now is {settings.get(key)!r}" for key in changed)
                raise DataError(f"{self.out}: holds results of other settings ({told}); {_WAYS_OUT}")
        elif known := [job for job in jobs if self.annotation_path(job).exists()]:
            raise DataError(f"{self.annotation_path(known[0])}: is not from a run like this; {_WAYS_OUT}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps(settings, indent=2) + "\n")
        if self.format_name == "yolo" and not (self.out / YAML_NAME).exists():
            write_yolo(self.out, [], class_names=(UNNAMED,))

    def write(self, job: Job, pixels_hwc: np.ndarray, records: Sequence[MaskRecord]) -> None:
        """Write one image's results, the annotation file last. Raises `OutputError` when the disk won't have it."""
        try:
            self._write(job, pixels_hwc, records)
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be written ({error})") from error

    def _write(self, job: Job, pixels_hwc: np.ndarray, records: Sequence[MaskRecord]) -> None:
        size_hw = (pixels_hwc.shape[0], pixels_hwc.shape[1])
        image = AnnotatedImage(job.name, size_hw, tuple(records), job.path, job.image_id)
        path = self.annotation_path(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.overlay:
            write_overlay(self.overlay_path(job), image, pixels_hwc, texts=_captions(records))
        if self.format_name == "coco":
            write_sa1b_image(path, image)
        else:
            folder = self.out if self.format_name == "yolo" else path.parent
            write_dataset(folder, [image], self.format_name, pictures=self.pictures)

    def finish(self, jobs: Iterable[Job]) -> None:
        """Put together what is one file for all images: COCO's, of those jobs that are done."""
        if self.format_name != "coco":
            return
        job_of = {self.annotation_path(job): job for job in jobs if self.annotation_path(job).exists()}
        folders = sorted({path.parent for path in job_of})
        images = (
            replace(image, file_name=job.name, image_path=job.path, image_id=job.image_id)
            for folder in folders
            for image in read_sa1b(folder)
            if (job := job_of.get(folder / f"{image.stem}.json")) is not None
        )
        write_dataset(self.out, images, "coco", pictures=self.pictures)

    def _require_own_place(self, jobs: Sequence[Job]) -> None:
        out = self.out.resolve()
        taken: dict[Path, Job] = {}
        for job in jobs:
            if job.path.resolve().parent == out:
                raise DataError(f"{self.out}: holds {job.path.name} itself; {_OTHER_PLACE}")
            other = taken.setdefault(self.annotation_path(job), job)
            if other is not job:
                raise DataError(f"{other.path} and {job.path} would share one result; allowed: distinct names")


_OTHER_PLACE = "allowed: another folder for the results"
_WAYS_OUT = "allowed: another folder, the same settings, or --overwrite"


def find_jobs(sources: Sequence[Path], recursive: bool, out: Path) -> list[Job]:
    """The images of files and folders, in order; those in the output folder are left out.

    Names are relative to their folder; of several folders each begins with the folder's name. Raises
    `ImageError` for a path that is not there, and `DataError` when there is no image at all or the output folder
    is one of the folders.
    """
    folders = [source for source in sources if not source.is_file()]
    jobs: dict[Path, Job] = {}
    for source in sources:
        if source.is_file():
            jobs.setdefault(source, Job(source, source.name))
            continue
        if source.resolve() == out.resolve():
            raise DataError(f"{out}: holds the images itself; {_OTHER_PLACE}")
        prefix = f"{source.resolve().name}/" if len(folders) > 1 else ""
        for path in list_images(source, recursive):
            if not path.resolve().is_relative_to(out.resolve()):
                jobs.setdefault(path, Job(path, prefix + path.relative_to(source).as_posix()))
    if not jobs:
        where = ", ".join(str(source) for source in sources)
        raise DataError(f"{where}: no images there; allowed: image files, or folders of them (see --recursive)")
    return list(jobs.values())


def with_detections(jobs: Sequence[Job], images: Sequence[DetectedImage]) -> list[Job]:
    """The jobs whose images a detector's file names, with their boxes; an image it names without a box stays.

    Names are compared whole, then without folders where only one image and one name are meant. Raises `DataError`
    when no job is named.
    """
    by_name = {image.file_name: image for image in images}
    by_flat_name = {PurePosixPath(image.file_name).name: image for image in images}
    flat_names, flat_jobs = (
        Counter(PurePosixPath(name).name for name in names) for names in (by_name, [job.name for job in jobs])
    )
    named = []
    for job in jobs:
        flat_name = PurePosixPath(job.name).name
        image = by_name.get(job.name)
        if image is None and flat_names[flat_name] == flat_jobs[flat_name] == 1:
            image = by_flat_name[flat_name]
        if image is not None:
            named.append(replace(job, detections=image.detections, image_id=image.image_id))
    if not named:
        theirs = images[0].file_name if images else "none"
        raise DataError(f"no box is of an image here; the first here is {jobs[0].name}, the first with boxes {theirs}")
    return named


def _captions(records: Sequence[MaskRecord]) -> list[str] | None:
    """What to write on each mask: its class and the score of its box, where any has them."""
    captions = []
    for record in records:
        score = record.extra.get("score")
        captions.append(" ".join([record.category or "", "" if score is None else f"{score:.2f}"]).strip())
    return captions if any(captions) else None


class Session:
    """A model and a finder ready for one image after another."""

    def __init__(self, run: FolderRun, model: Segmenter | None = None) -> None:
        self.run = run
        self.find = run.finder.open(model or run.load_model())

    def work(self, job: Job, progress: Progress | None = None) -> Outcome:
        """Do one job. A bad image, or a fault that it brings to light, is an outcome with its reason.

        Raises `OutputError`.
        """
        started = time.perf_counter()
        try:
            pixels_hwc = read_image(job.path)
            records = self.find(job, pixels_hwc, progress)
            self.run.write(job, pixels_hwc, records)
        except OutputError:
            raise
        except AnymaskError as error:
            return Outcome(job, reason=str(error))
        except Exception as error:  # thousands of images must not wait for one that nobody thought of
            place = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {error}"
            return Outcome(job, reason=f"{job.path}: {fault}")
        return Outcome(job, len(records), time.perf_counter() - started)


def work_in_turn(
    run: FolderRun, model: Segmenter, jobs: Iterable[Job], progress: Progress | None = None
) -> Iterator[Outcome]:
    """Do the jobs in this process. Raises `OutputError`."""
    session = Session(run, model)
    for job in jobs:
        yield session.work(job, progress)
