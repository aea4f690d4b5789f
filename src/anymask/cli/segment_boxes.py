"""`anymask segment --boxes`: a detector's boxes and this package's masks make instance segmentation (paper D.4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anymask.cli.folder_run import do_run


@dataclass(frozen=True)
class ManyObjects:
    """What the command line says of the boxes and of what becomes of them."""

    boxes: Path
    coco_images: Path | None
    min_score: float | None
    is_refined: bool
    roi: Path | None


def segment_boxes(
    source: Path,
    objects: ManyObjects,
    out: Path,
    format_name: str,
    recursive: bool,
    workers: int,
    overwrite: bool,
    model: str,
    checkpoint: Path | None,
    device: str,
    json_output: bool,
) -> None:
    """Segment the boxes of one photograph or a folder of them; the arguments are the command's."""
    from anymask.data.detections import digest, read_detections
    from anymask.data.formats import find_format
    from anymask.generator.finders import DetectedObjects
    from anymask.generator.folder import FolderRun, find_jobs, with_detections

    find_format(format_name)
    images = read_detections(objects.boxes, objects.coco_images, objects.min_score)
    found = find_jobs([source], recursive, out)
    jobs = with_detections(found, images)
    finder = DetectedObjects(digest(images), objects.is_refined, objects.roi)
    run = FolderRun(out, finder, format_name, model, checkpoint, device, overlay=True)
    without = len(found) - len(jobs)
    notes = [f"{without} of {len(found)} images left out: {objects.boxes} does not name them"] if without else []
    do_run(run, jobs, workers, overwrite, json_output, notes)
