"""Everything in many images, one after the other or in several processes, each written as soon as it is found.

A run may be killed at any moment and be started again: an image is done when its annotation file is there, which
is written last and all at once. What a run was asked for is kept beside its results, so that no two settings mix.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from anymask.data.annotated import UNNAMED, AnnotatedImage
from anymask.data.formats import Pictures, find_format, write_dataset
from anymask.data.images import list_images, read_image
from anymask.data.png import TABLE_SUFFIX, write_overlay
from anymask.data.sa1b import read_json, read_sa1b, write_sa1b_image, write_text_atomically
from anymask.data.yolo import YAML_NAME, write_yolo
from anymask.errors import AnymaskError, DataError
from anymask.generator.generate import MaskGenerator, Progress
from anymask.model.checkpoints import fingerprint
from anymask.model.segmenter import Segmenter
from anymask.model.zoo import load_model
from anymask.records import MaskRecord

# Settings that change how much memory a run takes and not what it finds: they may differ from run to run.
FREE_OPTIONS = ("memory_mb", "points_per_batch")
# Kept in the output folder, hidden from readers of data sets: the settings, and the parts of a COCO file.
STATE_FOLDER = ".everything"


class OutputError(DataError):
    """Results that cannot be written: no other image's could be, either."""


@dataclass(frozen=True)
class Job:
    """One image file, and its name among the results: relative, with forward slashes."""

    path: Path
    name: str


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

    format_name: sa1b, coco, yolo, png or labelme. options: arguments of `MaskGenerator` by name. roi: a picture of
    every image's size whose bright pixels are the region of interest. pictures: whether images are copied or
    linked beside their masks. overlay: draw each into `overlays/NAME.jpg`.
    """

    out: Path
    format_name: str = "sa1b"
    model: str = "tiny"
    checkpoint: Path | None = None
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    roi: Path | None = None
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

    def read_roi(self) -> np.ndarray | None:
        """The region of interest (H, W) bool: brighter than half. Raises `ImageError`."""
        return None if self.roi is None else read_image(self.roi).max(axis=2) > 127

    def prepare(self, model: Segmenter, jobs: Sequence[Job], overwrite: bool = False) -> None:
        """Check that the run is possible and make the output folder; with `overwrite` nothing counts as done.

        Raises `DataError` when two images would have the same result, the output folder is an image's own, or
        it holds results that other settings, another model or nobody known made; `AnymaskError` for settings
        that cannot be.
        """
        find_format(self.format_name)
        MaskGenerator(model, **self.options)
        self._require_own_place(jobs)
        settings = self._settings(model)
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
        image = AnnotatedImage(job.name, size_hw, tuple(records), job.path)
        path = self.annotation_path(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.overlay:
            write_overlay(self.overlay_path(job), image, pixels_hwc)
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
            replace(image, file_name=job.name, image_path=job.path, image_id=None)
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

    def _settings(self, model: Segmenter) -> dict[str, Any]:
        defaults = model.generator_defaults
        told = {key: value for key, value in self.options.items() if value is not None and key not in FREE_OPTIONS}
        return {
            "format": self.format_name,
            "model": f"{model.name} {fingerprint(model)}",
            "pred_iou_thresh": defaults.pred_iou_thresh,
            "stability_score_thresh": defaults.stability_score_thresh,
            **told,
            "roi": None if (roi_hw := self.read_roi()) is None else hashlib.sha256(roi_hw.tobytes()).hexdigest()[:16],
        }


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


class Session:
    """A model and a region of interest ready for one image after another."""

    def __init__(self, run: FolderRun, model: Segmenter | None = None) -> None:
        self.run = run
        self.generator = MaskGenerator(model or run.load_model(), **run.options)
        self.roi_hw = run.read_roi()

    def work(self, job: Job, progress: Progress | None = None) -> Outcome:
        """Do one job. A bad image, or a fault that it brings to light, is an outcome with its reason.

        Raises `OutputError`.
        """
        started = time.perf_counter()
        try:
            pixels_hwc = read_image(job.path)
            records = self.generator.generate(pixels_hwc, self.roi_hw, progress)
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


def work_side_by_side(run: FolderRun, jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    """Do the jobs in several processes, each with its own model and its share of the cores; in any order.

    Raises `OutputError`, and `AnymaskError` when a process was killed.
    """
    threads = max(1, available_cores() // workers)
    with _environment(OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads)):
        pool = ProcessPoolExecutor(
            min(workers, len(jobs)), get_context("spawn"), initializer=_start_worker, initargs=(run, threads)
        )
        try:
            futures = [pool.submit(_work, job) for job in jobs]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise AnymaskError(
                "a process ended before its work was done (was it out of memory?); run the same command again to "
                f"go on where it stopped, with fewer than {workers} workers if it happens again"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_session: Session | None = None  # of a worker process


def _start_worker(run: FolderRun, threads: int) -> None:
    import signal

    import cv2
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides; images in work are finished
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    global _session
    _session = Session(run)


def _work(job: Job) -> Outcome:
    assert _session is not None
    return _session.work(job)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables for the processes that start meanwhile: libraries read them once, when they are loaded."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
