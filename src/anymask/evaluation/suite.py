"""All experiments that masks alone allow, one after the other on the same sets: what `docs/results.md` is made of.

Points, boxes and clicks on every image; by class where the set has classes; instances and proposals on a sample; edges
where there is BSDS ground truth. Each writes its own folder, as if it had been run alone, and a run that was broken off
goes on where it stopped. `results.md` has the tables of all in one page, with the sets that a model was trained on
apart from those that it has never seen the like of.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anymask.data.bsds import bsds_truths
from anymask.errors import DataError
from anymask.evaluation.comparison import compare_measures
from anymask.evaluation.edges.experiment import EdgeResults, ModelEdges, evaluate_edges, export_edges
from anymask.evaluation.fairness import FairnessResults, evaluate_fairness
from anymask.evaluation.groups import TruthGroups
from anymask.evaluation.instance_scores import InstanceResults, evaluate_instances
from anymask.evaluation.instances import InstanceSettings, TrueBoxes
from anymask.evaluation.metrics import mean_over_sets
from anymask.evaluation.point_scores import PointResults, evaluate_points
from anymask.evaluation.point_sets import open_point_set
from anymask.evaluation.points import PointSettings, Progress, set_name
from anymask.evaluation.predictions import evenly_spaced
from anymask.evaluation.processes import kept_processes
from anymask.evaluation.proposals import GeneratorProposer, ProposalResults, ProposalSettings, evaluate_proposals
from anymask.evaluation.protocol import describe
from anymask.evaluation.report import how_made, markdown_table, percent, write_report
from anymask.evaluation.truth import open_truth
from anymask.predictor import Predictor

CLASS_KEY = "category"
LEAD_MEASURES = ("1", "oracle", "box")


@dataclass(frozen=True)
class SuiteSettings:
    """What is run, beside every object's points.

    zero_shot: names of the sets ("wbc/zeroshot") whose like the model was not trained on. sample_images: of each set
    for instances and proposals, evenly spaced, None for all. points_per_side: of the proposals' grid (paper: 64, which
    is 16 times the work of 16). max_images, max_objects: see `PointSettings`; all images or at most so many, in every
    experiment. edges: BSDS ground truth, or None. against: what `evaluate_points` wrote for another model, or None.
    Raises DataError for what is not allowed.
    """

    zero_shot: tuple[str, ...] = ()
    sample_images: int | None = 20
    points_per_side: int = 16
    max_images: int | None = None
    max_objects: int | None = None
    edges: Path | None = None
    against: Path | None = None

    def __post_init__(self) -> None:
        for name in ("sample_images", "max_images", "max_objects", "points_per_side"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} is {value}; allowed: 1 or more")

    @property
    def images_of_sample(self) -> int | None:
        """The lesser of both limits."""
        limits = [limit for limit in (self.sample_images, self.max_images) if limit is not None]
        return min(limits, default=None)


@dataclass(frozen=True)
class SuiteResults:
    """The results of each experiment, by set where it is run on each; seconds: what each took in this run."""

    model: dict[str, Any]
    zero_shot: tuple[str, ...]
    points: PointResults
    leads: dict[str, dict[str, float]]
    classes: dict[str, FairnessResults]
    instances: dict[str, InstanceResults]
    proposals: dict[str, ProposalResults]
    edges: EdgeResults | None
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values, the form of results.json."""
        return asdict(self)

    def points_table(self) -> tuple[list[str], list[list[str]]]:
        """The point experiment's table with means of both kinds of sets."""
        header, rows = self.points.table()
        means = []
        for kind, is_zero_shot in (("in-domain", False), ("zero-shot", True)):
            own = {name: of for name, of in self.points.sets.items() if (name in self.zero_shot) == is_zero_shot}
            if own and len(own) < len(self.points.sets):
                mean = mean_over_sets({name: of.miou for name, of in own.items()})
                counts = [str(sum(getattr(of, what) for of in own.values())) for what in ("images", "objects")]
                means.append([f"mean of {len(own)} {kind}", *counts, *(percent(mean[of]) for of in self.points.mean)])
        return header, [*rows[:-1], *means, rows[-1]]

    def leads_table(self) -> tuple[list[str], list[list[str]]]:
        """The lead over the other model in percentage points, by set and measure."""
        sets = list(next(iter(self.leads.values())))
        rows = [[name, *(f"{of[name]:+.1f}" for of in self.leads.values())] for name in sets]
        mean = [f"{sum(of.values()) / len(of):+.1f}" for of in self.leads.values()]
        return ["lead", *self.leads], [*rows, ["mean over sets", *mean]]

    def instances_table(self) -> tuple[list[str], list[list[str]]]:
        """Mask AP and mean IoU with true boxes, before and after the refinement."""
        header = ["set", "images", "boxes", "AP", "AP refined", "AP50 refined", "mIoU", "mIoU refined"]
        rows = []
        for name, of in self.instances.items():
            first, refined = of.scores["first"], of.scores["refined"]
            figures = [first["AP"], refined["AP"], refined["AP50"], of.miou["first"], of.miou["refined"]]
            rows.append([name, str(of.images), str(of.instances), *map(percent, figures)])
        return header, rows

    def proposals_table(self) -> tuple[list[str], list[list[str]]]:
        """Average recall of masks, and of the best thousand by size."""
        header = ["set", "images", "masks an image", "AR@10", "AR@100", "AR@1000", "small", "medium", "large", "box"]
        rows = []
        for name, of in self.proposals.items():
            masks = of.recall["mask"]
            figures = [masks["all"][limit] for limit in ("10", "100", "1000")]
            figures += [masks[size]["1000"] for size in ("small", "medium", "large")]
            counts = [str(of.images), f"{of.proposals:.0f}"]
            rows.append([name, *counts, *map(percent, [*figures, of.recall["box"]["all"]["1000"]])])
        return header, rows

    def to_markdown(self) -> str:
        """One page with the tables of all experiments and where to find each one's own."""
        parts = [
            f"# Results of `{self.model.get('name')}`\n",
            f"## Points and boxes: mean IoU (%)\n\n{markdown_table(*self.points_table())}\n"
            "oracle: best of three masks for one click. box+1: the box and one click that corrects its answer. "
            "Intervals: points/results.md.\n",
        ]
        if self.leads:
            parts.append(f"### Lead over another model (percentage points)\n\n{markdown_table(*self.leads_table())}")
        for name, of in self.classes.items():
            parts.append(f"### By class: {name}\n\n{markdown_table(*of.table(CLASS_KEY))}")
        parts.append(
            f"## Instances: true boxes, all masks one class\n\n{markdown_table(*self.instances_table())}\n"
            "Mask AP (%) by COCO's rules, the mask's own confidence its score; refined: the mask fed back once.\n"
        )
        parts.append(
            f"## Proposals: average recall (%)\n\n{markdown_table(*self.proposals_table())}\n"
            "Of masks; sizes and box: of the best 1000.\n"
        )
        if self.edges is not None:
            parts.append(f"## Edges\n\n{markdown_table(*self.edges.table())}\nOn {self.edges.images} images.\n")
        minutes = {name: f"{seconds / 60:.1f} minutes in the last run" for name, seconds in self.seconds.items()}
        return "\n".join([*parts, "## How it was made\n", how_made(self.model, minutes)])


def evaluate_suite(
    judged: Predictor,
    data_folders: Sequence[str | Path],
    out: str | Path,
    settings: SuiteSettings | None = None,
    embeddings: str | Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> SuiteResults:
    """Run all experiments on sets in SA-1B's layout and write out/results.json and out/results.md.

    Each experiment writes out/NAME/ as it does alone. `embeddings` is the folder that keeps them (out/embeddings
    unless given). `progress` is called with experiment and set, how many images are done and how many there are.
    Raises DataError as the experiments do, and for a zero-shot set that is not among the sets.
    """
    settings, out = settings or SuiteSettings(), Path(out)
    folders = {set_name(folder): Path(folder) for folder in data_folders}
    unknown = [name for name in settings.zero_shot if name not in folders]
    if unknown:
        raise DataError(f"zero_shot names {', '.join(unknown)}; allowed: {', '.join(folders)}")
    embeddings = out / "embeddings" if embeddings is None else embeddings
    suite = _Suite(judged, folders, out, settings, embeddings, workers, progress)
    with kept_processes(workers):
        results = SuiteResults(
            model=describe(judged),
            zero_shot=settings.zero_shot,
            points=suite.points(),
            leads=suite.leads(),
            classes=suite.classes(),
            instances=suite.instances(),
            proposals=suite.proposals(),
            edges=suite.edges(),
            seconds=suite.seconds,
        )
    write_report(out, results.to_json(), results.to_markdown())
    return results


class _Suite:
    """One run, an experiment a method; `seconds` is what each took."""

    def __init__(
        self,
        judged: Predictor,
        folders: dict[str, Path],
        out: Path,
        settings: SuiteSettings,
        embeddings: str | Path,
        workers: int,
        progress: Progress | None,
    ) -> None:
        self.judged, self.folders, self.out, self.settings = judged, folders, out, settings
        self.embeddings, self.workers, self._progress = embeddings, workers, progress
        self.seconds: dict[str, float] = {}

    def points(self) -> PointResults:
        max_images, max_objects = self.settings.max_images, self.settings.max_objects
        with self._step("points"):
            return evaluate_points(
                self.judged,
                list(self.folders.values()),
                self.out / "points",
                PointSettings(box_click=True, max_images=max_images, max_objects=max_objects),
                progress=self._told("points"),
                embeddings=self.embeddings,
                workers=self.workers,
            )

    def leads(self) -> dict[str, dict[str, float]]:
        if self.settings.against is None:
            return {}
        with self._step("comparison"):
            outs = {measure: self.out / "lead" / measure for measure in LEAD_MEASURES}
            comparisons = compare_measures(self.out / "points", self.settings.against, outs, self.workers)
        return {
            measure: {name: 100 * of.sets[name].lead for name in self.folders if name in of.sets}
            for measure, of in comparisons.items()
        }

    def classes(self) -> dict[str, FairnessResults]:
        with self._step("classes"):
            return {
                name: evaluate_fairness(
                    [self.out / "points" / "predictions" / name], TruthGroups(CLASS_KEY), self.out / "classes" / name
                )
                for name, folder in self.folders.items()
                if _class_count(folder) > 1
            }

    def instances(self) -> dict[str, InstanceResults]:
        settings = InstanceSettings(max_images=self.settings.images_of_sample)
        with self._step("instances"):
            return {
                name: evaluate_instances(
                    self.judged,
                    open_truth(folder),
                    TrueBoxes(),
                    self.out / "instances" / name,
                    settings,
                    self.embeddings,
                    self._told("instances"),
                    self.workers,
                )
                for name, folder in self.folders.items()
            }

    def proposals(self) -> dict[str, ProposalResults]:
        settings = ProposalSettings(
            points_per_side=self.settings.points_per_side, max_images=self.settings.images_of_sample
        )
        proposer = GeneratorProposer(self.judged.model, settings, self.embeddings)
        with self._step("proposals"):
            return {
                name: evaluate_proposals(
                    proposer,
                    open_truth(folder),
                    self.out / "proposals" / name,
                    settings,
                    self._told("proposals"),
                    self.workers,
                )
                for name, folder in self.folders.items()
            }

    def edges(self) -> EdgeResults | None:
        truth_dir, out = self.settings.edges, self.out / "edges"
        if truth_dir is None:
            return None
        detector = ModelEdges(self.judged.model, embeddings=self.embeddings)
        truths = evenly_spaced(bsds_truths(truth_dir), self.settings.max_images)
        with self._step("edges"):
            export_edges(detector, truth_dir, truths, out / "predictions", None, self._progress, self.workers)
        with self._step("matching of edges"):
            return evaluate_edges(
                detector, truth_dir, out, None, self.settings.max_images, self.workers, self._progress
            )

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def _told(self, experiment: str) -> Progress | None:
        progress = self._progress
        if progress is None:
            return None
        return lambda name, done, total: progress(f"{experiment}: {name}", done, total)


def _class_count(folder: Path) -> int:
    """How many classes the masks of a set have, by its first images."""
    point_set = open_point_set(folder)
    samples = (point_set.sample(name) for name in evenly_spaced(point_set.names, 10))
    return len({thing.extra.get(CLASS_KEY) for sample in samples for thing in sample.annotations} - {None})
