"""The paper's first zero-shot experiment (section 7.1 and D.1): how good is the mask after N clicks?

The first click is the centre of the true mask, the pixel farthest from its boundary, or, in the harder
variant, a random pixel of it. Each next click is the centre of the error region of the model's last answer,
the mask that it is most confident of. "oracle" is the best of the masks for the single click, "box" the
answer to the object's tight box, "box+1" the answer after a click that corrects it. Scores are IoU, averaged
over a set's objects and then over sets.

`export_points` writes the answers as files; `point_scores` reads and scores them, and has `evaluate_points`,
which does it all.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anymask.data.sa1b import Sample
from anymask.errors import DataError
from anymask.evaluation.point_sets import PointSet, open_point_set, truth_sha256
from anymask.evaluation.predictions import PredictionFolder, evenly_spaced
from anymask.evaluation.processes import work_in_processes
from anymask.evaluation.protocol import Answer, Segmentable
from anymask.geometry.boxes import xywh_to_xyxy
from anymask.geometry.points import mask_centre_xy, next_click, random_point_xy
from anymask.geometry.rle import Rle, decode_rle, encode_rles, rle_area, rle_to_box_xywh
from anymask.prompts import Prompt

FIRST_POINTS = ("centre", "random")

# Called with the set's name, how many of its images are done and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PointSettings:
    """How the experiment is run; written beside the predictions, which belong to exactly these settings.

    clicks: the numbers of clicks to report, rising (paper: 1, 2, 3, 5, 9).
    first_point: "centre" or "random" (paper's harder variant; only the first click is random).
    boxes: also ask for each object by its tight box.
    box_click: also correct the box's answer with one click, given together with the box.
    feedback: from the second prompt on, give the last answer's logits back as a mask prompt, as interactive
        use does.
    max_images, max_objects: at most so many images of a set and objects of an image, evenly spaced; None is
        all.
    seed: of the random first clicks; each object's click depends on it and the object alone.

    Raises DataError for a value that is not allowed.
    """

    clicks: tuple[int, ...] = (1, 2, 3, 5, 9)
    first_point: str = "centre"
    boxes: bool = True
    box_click: bool = False
    feedback: bool = True
    max_images: int | None = None
    max_objects: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "clicks", tuple(self.clicks))
        if not self.clicks or self.clicks[0] < 1 or list(self.clicks) != sorted(set(self.clicks)):
            raise DataError(f"clicks is {self.clicks}; allowed: rising numbers from 1 on, such as 1, 2, 3, 5, 9")
        if self.first_point not in FIRST_POINTS:
            raise DataError(f"first_point is {self.first_point!r}; allowed: {' or '.join(FIRST_POINTS)}")
        for name in ("max_images", "max_objects"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise DataError(f"{name} is {limit}; allowed: 1 or more, or None for all")
        if self.box_click and not self.boxes:
            raise DataError("box_click is True without boxes; allowed: only together with boxes")
        if self.seed < 0:
            raise DataError(f"seed is {self.seed}; allowed: 0 or more")


@dataclass
class _Object:
    """One object on its way through the clicks."""

    index: int
    rle: Rle
    points_xy: list[tuple[float, float]]
    labels: list[int]
    logits: np.ndarray | None = None
    clicks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    box: list[dict[str, Any]] | None = None
    box_click: list[dict[str, Any]] | None = None

    def prompt(self, feedback: bool) -> Prompt:
        """All clicks so far; three masks are asked for only while the prompt is ambiguous."""
        return Prompt(
            points=tuple(self.points_xy),
            labels=tuple(self.labels),
            mask_logits=self.logits if feedback else None,
            multimask=True if len(self.points_xy) == 1 else None,
        )

    def box_prompt(self) -> Prompt:
        x0, y0, x1, y1 = (float(side) for side in xywh_to_xyxy(rle_to_box_xywh(self.rle)))
        return Prompt(box=(x0, y0, x1, y1))

    def corrected_box_prompt(self, answer: Answer, feedback: bool) -> Prompt:
        """The box and the click that corrects its answer most."""
        point_xy, label = next_click(decode_rle(self.rle), answer.masks[0])
        logits = np.array(answer.logits[:1]) if feedback else None
        return replace(self.box_prompt(), points=(point_xy,), labels=(label,), mask_logits=logits)

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "points_xy": [list(point) for point in self.points_xy],
            "labels": self.labels,
            "clicks": self.clicks,
            "box": self.box,
            "box_click": self.box_click,
        }


def set_name(data_folder: str | Path) -> str:
    """The name of a data set: the last two parts of its folder's path, such as bsds500/test."""
    return "/".join(Path(data_folder).resolve().parts[1:][-2:])


def export_points(
    judged: Segmentable,
    data_folder: str | Path,
    out: str | Path,
    settings: PointSettings,
    model: Mapping[str, Any],
    progress: Progress | None = None,
    embeddings: str | Path | None = None,
    layout: str = "auto",
    images_dir: str | Path | None = None,
    workers: int = 1,
) -> PredictionFolder:
    """Ask a model for every object of a data set (see `open_point_set`) and write its answers to the folder `out`.

    `model` says who is judged, as JSON values (name, fingerprint of the weights...); it is kept with the
    settings and the data set in config.json. Images that are done already are passed over. `embeddings` is the
    folder that keeps images' embeddings for all experiments; `workers` processes share the images. Raises DataError
    when `out` holds predictions of another configuration or the data are broken.
    """
    begun = begin_points(data_folder, out, settings, model, layout, images_dir)
    export_all_points(judged, [begun], settings, progress, embeddings, workers)
    return begun.predictions


@dataclass(frozen=True)
class BegunSet:
    """A data set of which predictions are made or begun: its name, what is in it, where the answers go."""

    name: str
    point_set: PointSet
    predictions: PredictionFolder


def begin_points(
    data_folder: str | Path,
    out: str | Path,
    settings: PointSettings,
    model: Mapping[str, Any],
    layout: str = "auto",
    images_dir: str | Path | None = None,
) -> BegunSet:
    """Open a data set and the folder of its predictions; for the arguments see `export_points`."""
    point_set = open_point_set(data_folder, layout, images_dir)
    config = {
        "model": dict(model),
        "settings": asdict(settings),
        "data": str(Path(data_folder).resolve()),
        "layout": layout,
        "images_dir": None if images_dir is None else str(Path(images_dir).resolve()),
    }
    return BegunSet(set_name(data_folder), point_set, PredictionFolder.create(out, config))


def export_all_points(
    judged: Segmentable,
    sets: Sequence[BegunSet],
    settings: PointSettings,
    progress: Progress | None = None,
    embeddings: str | Path | None = None,
    workers: int = 1,
) -> None:
    """Write what is missing of all sets' predictions, the images shared out over `workers` processes."""
    shared = _Work(judged, tuple(sets), settings, embeddings)
    done, totals, jobs = [], [], []
    for index, one in enumerate(sets):
        names = evenly_spaced(one.point_set.names, settings.max_images)
        missing = [(index, name) for name in names if not one.predictions.has(name)]
        jobs += missing
        done.append(len(names) - len(missing))
        totals.append(len(names))
        if progress is not None and done[index]:
            progress(one.name, done[index], totals[index])
    for index in work_in_processes(_predict_and_write, shared, jobs, workers):
        done[index] += 1
        if progress is not None:
            progress(sets[index].name, done[index], totals[index])


@dataclass(frozen=True)
class _Work:
    judged: Segmentable
    sets: tuple[BegunSet, ...]
    settings: PointSettings
    embeddings: str | Path | None


def _predict_and_write(shared: _Work, job: tuple[int, str]) -> int:
    """Answer one image, (index of its set, name), and return the set's index."""
    index, name = job
    one = shared.sets[index]
    one.predictions.write(
        name, predict_image(shared.judged, one.point_set.sample(name), shared.settings, shared.embeddings)
    )
    return index


def point_set_of(predictions: PredictionFolder) -> PointSet:
    """The data set that predictions were made for. Raises DataError when their configuration does not say."""
    config = predictions.config
    if "data" not in config:
        raise DataError(f"{predictions.config_path}: has no 'data'")
    return open_point_set(config["data"], config.get("layout", "auto"), config.get("images_dir"))


def predict_image(
    judged: Segmentable, sample: Sample, settings: PointSettings, embeddings: str | Path | None = None
) -> dict[str, Any]:
    """One image's part of the experiment, as JSON values; the image is embedded once for all its objects.

    Each object has its `index` in the annotation file, the clicks it got, and for each number of clicks (and
    the box) the masks and confidences of the answer, best first.
    """
    objects = [_first_click(sample, index, settings) for index in _chosen_objects(sample, settings.max_objects)]
    if objects:
        _show(judged, sample, embeddings)
        for count in range(1, settings.clicks[-1] + 1):
            _click_round(judged, objects, count, settings)
        if settings.boxes:
            _box_round(judged, objects, settings)
    return {
        "image": sample.image_path.name,
        "annotations_sha256": annotations_sha256(sample),
        "objects": [thing.to_json() for thing in objects],
    }


def annotations_sha256(sample: Sample) -> str:
    """The digest of an image's masks: predictions are scored against the truth that they were made from."""
    return truth_sha256(sample)


def _show(judged: Segmentable, sample: Sample, embeddings: str | Path | None) -> None:
    from anymask.data.images import image_size_hw
    from anymask.evaluation.embeddings import show_image  # torch is needed only where embeddings are kept

    if embeddings is None:
        judged.set_image(sample.read_image())
        return
    found_hw = image_size_hw(sample.image_path)
    if found_hw != sample.size_hw:
        raise DataError(f"{sample.image_path}: is {found_hw} (h, w); allowed: its masks' size, {sample.size_hw}")
    show_image(judged, sample.image_path, embeddings)


def _chosen_objects(sample: Sample, limit: int | None) -> list[int]:
    """Indices of the annotations to judge; an empty mask is no object."""
    try:
        filled = [index for index, thing in enumerate(sample.annotations) if rle_area(thing.rle) > 0]
    except DataError as error:
        raise DataError(f"{sample.json_path}: {error}") from error
    return evenly_spaced(filled, limit)


def _first_click(sample: Sample, index: int, settings: PointSettings) -> _Object:
    rle = sample.annotations[index].rle
    truth_hw = decode_rle(rle)
    if settings.first_point == "centre":
        point_xy = mask_centre_xy(truth_hw)
    else:
        name_number = zlib.crc32(sample.image_path.name.encode())
        point_xy = random_point_xy(truth_hw, np.random.default_rng([settings.seed, name_number, index]))
    return _Object(index, rle, [point_xy], [1])


def _click_round(judged: Segmentable, objects: Sequence[_Object], count: int, settings: PointSettings) -> None:
    """Answer the clicks so far for all objects, note the answers to report, and place the next clicks."""
    answers = list(judged.predict_batch([thing.prompt(settings.feedback) for thing in objects]))
    # Taken off the list one by one: masks at the image's size exist for one object at a time.
    for thing in reversed(objects):
        answer = answers.pop()
        if count in settings.clicks:
            thing.clicks[str(count)] = _candidates(answer)
        if count < settings.clicks[-1]:
            point_xy, label = next_click(decode_rle(thing.rle), answer.masks[0])
            thing.points_xy.append(point_xy)
            thing.labels.append(label)
            thing.logits = np.array(answer.logits[:1]) if settings.feedback else None


def _box_round(judged: Segmentable, objects: Sequence[_Object], settings: PointSettings) -> None:
    """Answer all boxes and, where it is asked for, a correction of each."""
    answers = list(judged.predict_batch([thing.box_prompt() for thing in objects]))
    prompts = []
    for thing in reversed(objects):
        answer = answers.pop()
        thing.box = _candidates(answer)
        if settings.box_click:
            prompts.append(thing.corrected_box_prompt(answer, settings.feedback))
    if prompts:
        for thing, answer in zip(reversed(objects), judged.predict_batch(prompts), strict=True):
            thing.box_click = _candidates(answer)


def _candidates(answer: Answer) -> list[dict[str, Any]]:
    return [
        {"rle": rle, "score": float(score)} for rle, score in zip(encode_rles(answer.masks), answer.scores, strict=True)
    ]
