"""The paper's ablations (7.6, figure 13), and of the losses, as runs that differ in one thing each.

All variants of an ablation start alike, take the same number of steps and are judged on the same held-out images.
The results are the last validation's scores: a table, a JSON and a picture of how each variant got there.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from anymask.errors import AnymaskError
from anymask.training.config import DataSource, TrainConfig
from anymask.training.loop import VALIDATION_CURVE, train, write_atomically
from anymask.training.losses import LossWeights
from anymask.training.recipes import tiny

SCORES = ("click", "oracle", "box", "iou_error")


@dataclass(frozen=True)
class Variant:
    """One run of an ablation, and what is said of it in the table."""

    label: str
    config: TrainConfig

    @property
    def folder(self) -> str:
        return "".join(letter if letter.isalnum() else "_" for letter in self.label)


def base_config(data: Path, steps: int) -> TrainConfig:
    """The shipped model's recipe on small crops, so that two CPU cores do a step in half a second."""
    return replace(
        tiny(data),
        crop_size=192,
        images_per_step=6,
        total_steps=steps,
        warmup_steps=min(100, steps // 5),
        cooldown_steps=steps // 2,
        ema_decay=0.99,
        validate_every=max(1, steps // 5),
    )


def data_source(base: TrainConfig, automatic: Path | None) -> list[Variant]:
    """People's masks, people's and automatic ones, automatic ones alone (paper 7.6)."""
    if automatic is None:
        raise AnymaskError("--automatic is missing: a folder of photos with the masks that `anymask everything` made")
    judged_by = base.validation_sources or base.sources
    by_people = sum(source.weight for source in base.sources)
    by_machine = DataSource(str(automatic), by_people)
    return [
        Variant("manual", base),
        Variant("manual + automatic", replace(base, sources=(*base.sources, by_machine), validation_sources=judged_by)),
        Variant("automatic only", replace(base, sources=(by_machine,), validation_sources=judged_by)),
    ]


def data_amount(base: TrainConfig, automatic: Path | None) -> list[Variant]:
    """A tenth, a third and all of the images (paper: 0.1 M, 1 M and 11 M)."""
    return [
        Variant(
            f"{share:.0%} of the images",
            replace(base, sources=tuple(replace(source, train_share=share) for source in base.sources)),
        )
        for share in (0.1, 0.3, 1.0)
    ]


def encoder_size(base: TrainConfig, automatic: Path | None) -> list[Variant]:
    """Half the width, and the whole (paper: ViT-B, L and H)."""
    return [Variant(model, replace(base, model=model)) for model in ("tiny_narrow", "tiny")]


def outputs(base: TrainConfig, automatic: Path | None) -> list[Variant]:
    """One answer for an ambiguous prompt, or three of which the best learns (paper 3)."""
    return [
        Variant("one output", replace(base, is_single_output=True, single_output_weight=0.0)),
        Variant("three outputs", base),
    ]


def losses(base: TrainConfig, automatic: Path | None) -> list[Variant]:
    """Each part that a loss can be made of, in turn; the IoU's weight is the same in all."""

    def weights(**parts: float) -> LossWeights:
        silent = dict.fromkeys((field.name for field in dataclasses.fields(LossWeights)), 0.0)
        of_iou = {"iou": base.losses.iou, "iou_absolute": base.losses.iou_absolute}
        return LossWeights(**{**silent, **of_iou, **parts})

    return [
        Variant("focal 20 + dice", replace(base, losses=weights(focal=20.0, dice=1.0))),
        Variant("dice", replace(base, losses=weights(dice=1.0))),
        Variant("cross-entropy + dice", replace(base, losses=weights(cross_entropy=1.0, dice=1.0))),
        Variant("balanced + dice", replace(base, losses=weights(balanced_cross_entropy=1.0, dice=1.0))),
        Variant(
            "cross-entropy + dice + contrastive",
            replace(base, losses=weights(cross_entropy=1.0, dice=1.0, contrastive=0.1)),
        ),
    ]


ABLATIONS: dict[str, Callable[[TrainConfig, Path | None], list[Variant]]] = {
    "data-source": data_source,
    "data-amount": data_amount,
    "encoder-size": encoder_size,
    "outputs": outputs,
    "losses": losses,
}


def run_ablation(variants: list[Variant], folder: Path, device: str = "auto") -> dict[str, dict[str, float]]:
    """Train what is not trained yet, one variant after the other; write and return each label's scores.

    A killed ablation goes on where it was. Writes `results.json`, `results.md` and `results.png` into `folder`.
    """
    for variant in variants:
        train(variant.config, folder / variant.folder, device=device)
    results = {variant.label: last_scores(folder / variant.folder) for variant in variants}
    write_atomically(folder / "results.json", json.dumps(results, indent=1))
    write_atomically(folder / "results.md", markdown(results))
    draw(variants, folder)
    return results


def last_scores(run_folder: Path) -> dict[str, float]:
    rows = list(validations(run_folder))
    return {"step": rows[-1]["step"], **{name: rows[-1][name] for name in SCORES}}


def validations(run_folder: Path) -> Iterator[dict[str, float]]:
    """A run's validations in order."""
    with (run_folder / VALIDATION_CURVE).open() as file:
        for row in csv.DictReader(file):
            yield {name: float(value) for name, value in row.items()}


def markdown(results: dict[str, dict[str, float]]) -> str:
    """A table with mIoU in percent; predicted-IoU error as it is."""
    lines = ["| | one click | oracle | box | error of predicted IoU |", "|---|---|---|---|---|"]
    for label, scores in results.items():
        percent = " | ".join(f"{100 * scores[name]:.1f}" for name in SCORES[:3])
        lines.append(f"| {label} | {percent} | {scores['iou_error']:.3f} |")
    return "\n".join(lines) + "\n"


def draw(variants: list[Variant], folder: Path) -> None:
    """Held-out scores over steps, one line for each variant."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, 3), SCORES[:3], strict=True):
        for variant in variants:
            rows = list(validations(folder / variant.folder))
            axes.plot([row["step"] for row in rows], [100 * row[name] for row in rows], marker="o", label=variant.label)
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("mean IoU of held-out objects (%)")
    lines, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize="small")
    figure.savefig(folder / "results.png", dpi=120)
