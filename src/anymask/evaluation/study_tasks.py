"""The human study's tasks (paper, section E): one mask each, in five views, shuffled and blind to who made it.

`make_study` takes the answers of several methods to the same clicks (the point experiment's predictions) and
the true masks, as one method more. A study is a folder:

    tasks.json        what the page shows: task numbers alone, in shuffled order
    views/TASK/       the five pictures of a task
    key/              which mask a task shows, by image; only the report looks at it
    ratings.sqlite    what was rated (`study_ratings`)

Some tasks come twice, under two numbers: how differently one person rates the same mask tells how far ratings
can be trusted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anymask.data.images import read_image
from anymask.data.sa1b import read_json, write_text_atomically
from anymask.errors import DataError
from anymask.evaluation.fairness import find_predictions
from anymask.evaluation.points import Progress, annotations_sha256, point_set_of
from anymask.evaluation.predictions import PredictionFolder
from anymask.evaluation.study_views import VIEWS, write_views
from anymask.geometry.rle import Rle, decode_rle, rle_area

TRUTH = "ground truth"
# Smaller masks can't be rated (paper, E); taken to mean the area (assumed).
MIN_AREA = 24 * 24


@dataclass(frozen=True)
class StudySettings:
    """How a study is made. prompt: the number of clicks that the masks answer. objects: at most so many, drawn at
    random. repeat_share: of the tasks that come twice. with_truth: rate the true masks too (paper, E). seed: of
    everything random. Raises DataError for what is not allowed.
    """

    prompt: str = "1"
    objects: int | None = 100
    repeat_share: float = 0.1
    with_truth: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompt.isdecimal() or int(self.prompt) < 1:
            raise DataError(f"prompt is {self.prompt!r}; allowed: a number of clicks")
        if self.objects is not None and self.objects < 1:
            raise DataError(f"objects is {self.objects}; allowed: 1 or more, or None for all")
        if not 0 <= self.repeat_share <= 1:
            raise DataError(f"repeat_share is {self.repeat_share}; allowed: 0 to 1")


@dataclass(frozen=True)
class _Thing:
    """An object of an image, its mask by each method, and the clicks that every method got."""

    image_path: Path
    index: int
    points_xy: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]
    masks: dict[str, Rle]


def make_study(
    out: str | Path,
    methods: Mapping[str, str | Path],
    settings: StudySettings | None = None,
    progress: Progress | None = None,
) -> int:
    """Make the folder of a study and return how many tasks it has; a run that was broken off goes on.

    `methods` names each method's output folder of the point experiment; all must have judged the same sets.
    Objects count that all were asked about with the same clicks. Raises DataError for folders that don't go
    together, for none such, and for an `out` that was made otherwise.
    """
    settings, out = settings or StudySettings(), Path(out)
    names = [*methods, *([TRUTH] if settings.with_truth else [])]
    if not methods or len(set(names)) < len(names):
        raise DataError(f"methods are {list(methods)}; allowed: one or more, none of them called {TRUTH!r}")
    folders = _folders_by_data(methods)
    config = {"methods": {name: _who(name, folders) for name in methods}, "settings": asdict(settings)}
    key = PredictionFolder.create(out / "key", config)
    things = _choose(_common_things(folders, settings), settings)
    if not things:
        raise DataError("the methods have no object in common that is large enough and got the same clicks")
    planned = _plan(things, names, settings)
    by_image: dict[Path, list[dict[str, Any]]] = defaultdict(list)
    for task in planned:
        by_image[things[task["thing"]].image_path].append(task)
    for done, (image_path, tasks) in enumerate(sorted(by_image.items()), start=1):
        key_name = f"{image_path.parent.parent.name}-{image_path.parent.name}-{image_path.name}"
        if not key.has(key_name):
            image = read_image(image_path)
            for task in tasks:
                thing = things[task["thing"]]
                mask = decode_rle(thing.masks[task["method"]])
                write_views(out / "views" / task["task"], image, mask, thing.points_xy, thing.labels)
            key.write(key_name, {"image": str(image_path), "tasks": tasks})
        if progress is not None:
            progress("images", done, len(by_image))
    public = {"prompt": settings.prompt, "views": list(VIEWS), "tasks": [task["task"] for task in planned]}
    write_text_atomically(out / "tasks.json", json.dumps(public, indent=1) + "\n")
    return len(planned)


def read_tasks(study: str | Path) -> list[str]:
    """The numbers of all tasks. Raises DataError when the folder is no study, or one that is not finished."""
    path = Path(study) / "tasks.json"
    if not path.is_file():
        raise DataError(f"{path}: no such file; allowed: a folder that `anymask study make` finished")
    content = read_json(path)
    tasks = content.get("tasks") if isinstance(content, dict) else None
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        raise DataError(f"{path}: has no list of tasks")
    return tasks


def read_key(study: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The configuration, and for each task its `method`, `thing` (an object's number), `image` and `repeat_of`."""
    key = PredictionFolder.open(Path(study) / "key")
    tasks: dict[str, dict[str, Any]] = {}
    for path in sorted((key.path / "images").glob("*.json")):
        content = read_json(path)
        try:
            tasks |= {task["task"]: {**task, "image": content["image"]} for task in content["tasks"]}
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: is no key of a study ({error!r})") from error
    return key.config, tasks


def _folders_by_data(methods: Mapping[str, str | Path]) -> dict[str, dict[str, PredictionFolder]]:
    """For each data folder the predictions by method."""
    folders: dict[str, dict[str, PredictionFolder]] = defaultdict(dict)
    for name, path in methods.items():
        for found in find_predictions([path]):
            predictions = PredictionFolder.open(found)
            if not {"data", "model", "settings"} <= set(predictions.config):
                raise DataError(f"{found}: holds no predictions of the point experiment")
            folders[str(predictions.config["data"])][name] = predictions
    for data, by_method in folders.items():
        if missing := [name for name in methods if name not in by_method]:
            raise DataError(f"{missing[0]} has no predictions on {data}; allowed: the same sets for all methods")
    return folders


def _who(name: str, folders: Mapping[str, Mapping[str, PredictionFolder]]) -> dict[str, Any]:
    return {data: by_method[name].config["model"] for data, by_method in folders.items()}


def _common_things(folders: Mapping[str, Mapping[str, PredictionFolder]], settings: StudySettings) -> list[_Thing]:
    """All objects that every method answered, with the same clicks, large enough to be rated."""
    things = []
    for _, by_method in sorted(folders.items()):
        point_set = point_set_of(next(iter(by_method.values())))
        for image_name in point_set.names:
            if not all(predictions.has(image_name) for predictions in by_method.values()):
                continue
            sample, answers = point_set.sample(image_name), {}
            for name, predictions in by_method.items():
                content = predictions.read(image_name)
                if content["annotations_sha256"] != annotations_sha256(sample):
                    path = predictions.image_path(image_name)
                    raise DataError(f"{path}: the truth of {image_name} has changed since the predictions were made")
                answers[name] = {entry["index"]: entry for entry in content["objects"]}
            for index in sorted(set.intersection(*(set(of) for of in answers.values()))):
                truth = sample.annotations[index].rle
                entries = {name: of[index] for name, of in answers.items()}
                thing = _thing(sample.image_path, index, entries, truth, settings)
                if thing is not None and rle_area(truth) >= MIN_AREA:
                    things.append(thing)
    return things


def _thing(
    image_path: Path, index: int, entries: Mapping[str, Mapping[str, Any]], truth: Rle, settings: StudySettings
) -> _Thing | None:
    """The object with its masks, or None where the methods got other clicks."""
    count = int(settings.prompt)
    prompts = set()
    masks = {}
    for name, entry in entries.items():
        if settings.prompt not in entry["clicks"]:
            raise DataError(f"{name} has no answers to {count} clicks; it has {', '.join(entry['clicks'])}")
        points = tuple((float(x), float(y)) for x, y in entry["points_xy"][:count])
        prompts.add((points, tuple(entry["labels"][:count])))
        masks[name] = entry["clicks"][settings.prompt][0]["rle"]
    if len(prompts) > 1:
        return None
    points_xy, labels = prompts.pop()
    return _Thing(image_path, index, points_xy, labels, {**masks, **({TRUTH: truth} if settings.with_truth else {})})


def _choose(things: Sequence[_Thing], settings: StudySettings) -> list[_Thing]:
    if settings.objects is None or len(things) <= settings.objects:
        return list(things)
    chosen = np.random.default_rng([settings.seed, 1]).choice(len(things), settings.objects, replace=False)
    return [things[place] for place in sorted(chosen)]


def _plan(things: Sequence[_Thing], names: Sequence[str], settings: StudySettings) -> list[dict[str, Any]]:
    """All tasks, shuffled, with numbers that say nothing."""
    rng = np.random.default_rng([settings.seed, 2])
    shown = [(thing, name) for thing in range(len(things)) for name in names]
    repeats = rng.choice(len(shown), round(settings.repeat_share * len(shown)), replace=False)
    numbers = rng.permutation(10**6)[: len(shown) + len(repeats)]
    tasks: list[dict[str, Any]] = [
        {"task": f"{number:06d}", "thing": thing, "index": things[thing].index, "method": name, "repeat_of": None}
        for number, (thing, name) in zip(numbers, shown, strict=False)
    ]
    for number, place in zip(numbers[len(shown) :], repeats, strict=True):
        tasks.append({**tasks[place], "task": f"{number:06d}", "repeat_of": tasks[place]["task"]})
    return [tasks[place] for place in rng.permutation(len(tasks))]
