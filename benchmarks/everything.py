"""Everything in a photograph of 1200x1800 with `tiny`: our generator beside Meta's over the same model.

    python benchmarks/everything.py [--photo PHOTO] [--iou-threshold 0.5] [--rounds 2] [--json-file FILE]

Meta's `SamAutomaticMaskGenerator` is driven over `as_reference(tiny)`; both ask 32x32 points with the same settings,
and what the paper adds over the reference (no mask that covers the image, no small regions) is off. The thresholds
shall let 5 to 20% of the candidates pass. The more pass, the more time goes into drawing; the reference draws all.
Contestants take turns in processes of their own. "as shipped" is what `anymask everything` does: the model's own
thresholds, the paper's filters, the hierarchy.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pairs import Pair, Task

IMAGE_HW = (1200, 1800)
POINTS_PER_SIDE = 32
OUTPUTS = 3 * POINTS_PER_SIDE**2
# A tenth of the usual photograph's candidates pass, or a little more ("measured").
IOU_THRESHOLD = 0.5
# The photograph that is taken where the folder of real data is there; else one is made up.
FOLDER_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
USUAL_PHOTO = "photos/unlabelled/kodak_08.jpg"
# Told to the worker processes by name: where the photograph lies, where they leave their masks, what shall pass.
PHOTO, ANSWERS, THRESHOLD = "ANYMASK_BENCH_PHOTO", "ANYMASK_BENCH_ANSWERS", "ANYMASK_BENCH_IOU_THRESHOLD"


def settings() -> dict[str, float]:
    """What both generators are told."""
    iou_threshold = float(os.environ.get(THRESHOLD, IOU_THRESHOLD))
    return {"pred_iou_thresh": iou_threshold, "stability_score_thresh": 0.4, "box_nms_thresh": 0.9}


def photograph() -> np.ndarray:
    """The chosen photograph at IMAGE_HW, else one made up."""
    import cv2

    import networks
    from anymask import read_image

    if PHOTO not in os.environ:
        return networks.photograph(IMAGE_HW)
    return cv2.resize(read_image(os.environ[PHOTO]), IMAGE_HW[::-1], interpolation=cv2.INTER_AREA)


def keep_answer(contestant: str, **answer: Any) -> None:
    if ANSWERS in os.environ:
        Path(os.environ[ANSWERS], f"{contestant}.json").write_text(json.dumps(answer))


def ours() -> Task:
    import anymask
    from anymask.generator import generate

    model, image = anymask.load_model("tiny", device="cpu"), photograph()
    same = {"max_coverage": 1.0, "min_mask_region_area": 0, "has_hierarchy": False}
    generator = anymask.MaskGenerator(model, POINTS_PER_SIDE, **settings(), **same)
    counts: list[int] = []
    suppress = generate._suppress

    def counted(candidates: list[Any], *rest: Any) -> list[Any]:
        counts.append(len(candidates))
        return suppress(candidates, *rest)

    generate._suppress = counted

    def run() -> None:
        counts.clear()
        records = generator.generate(image)
        keep_answer("ours", masks=[record.segmentation for record in records], passed=counts[0])

    return Task(run)


def metas() -> Task:
    import anymask
    import networks
    from anymask.compat.segment_anything import as_reference

    if find_spec("torchvision") is None:
        sys.path.insert(0, str(networks.STUBS))
    from segment_anything import SamAutomaticMaskGenerator

    model, image = as_reference(anymask.load_model("tiny", device="cpu")), photograph()
    generator = SamAutomaticMaskGenerator(model, POINTS_PER_SIDE, **settings(), output_mode="coco_rle")
    return Task(lambda: keep_answer("metas", masks=[one["segmentation"] for one in generator.generate(image)]))


def as_shipped() -> Task:
    import anymask

    generator = anymask.MaskGenerator(anymask.load_model("tiny", device="cpu"))
    image = photograph()
    return Task(lambda: keep_answer("as shipped", masks=[one.segmentation for one in generator.generate(image)]))


PAIR = Pair(
    "everything in an image of 1200x1800, 1,024 points, tiny",
    {"ours": ours, "metas": metas, "as shipped": as_shipped},
    bars={"metas": 8.0},
    limits_s={"as shipped": 2.5},
    rounds=2,
    quick_rounds=1,
)


def compare(folder: Path) -> dict[str, Any]:
    """How far the masks of the two are the same: `matched` have an IoU of 0.99 or more with one of the other's."""
    from pycocotools import mask as coco_mask

    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in PAIR.contestants}
    ours, metas = found["ours"]["masks"], found["metas"]["masks"]
    overlaps = coco_mask.iou(ours, metas, [0] * len(metas)) if ours and metas else np.zeros((len(ours), len(metas)))
    return {
        "candidates": OUTPUTS,
        "passed before suppression": found["ours"]["passed"],
        "share passed": round(found["ours"]["passed"] / OUTPUTS, 3),
        "masks, ours": len(ours),
        "masks, metas": len(metas),
        "masks, as shipped": len(found["as shipped"]["masks"]),
        "of metas, found by ours at IoU 0.99": int((overlaps.max(axis=0, initial=0) >= 0.99).sum()),
        "least overlap of a mask of metas": round(float(overlaps.max(axis=0, initial=0).min(initial=1)), 4),
    }


def main(
    photo: Path | None = None,
    iou_threshold: float = IOU_THRESHOLD,
    rounds: int = PAIR.rounds,
    threads: int = os.cpu_count() or 1,
    json_file: Path | None = None,
) -> None:
    from rich.console import Console

    import environment
    import report
    from turns import run_pair

    console = Console(width=report.WIDTH)
    usual = Path(os.environ.get("ANYMASK_DATA", FOLDER_BESIDE)) / USUAL_PHOTO
    photo = photo or (usual if usual.exists() else None)
    if photo is not None:
        os.environ[PHOTO] = str(photo.resolve())
    os.environ[THRESHOLD] = str(iou_threshold)
    with TemporaryDirectory() as folder:
        os.environ[ANSWERS] = folder
        with console.status("") as status:
            python = environment.peers_python(status.update)
            results = run_pair(python, "everything", PAIR, rounds, threads, status.update)
        comparison = compare(Path(folder))
    report.print_table(console, PAIR, results)
    for what, value in comparison.items():
        console.print(f"{what}: {value}")
    if json_file is not None:
        facts = {**report.as_json(PAIR, results), "comparison": comparison, "settings": settings()}
        report.write_json(json_file, {"machine": report.machine(threads), "everything": facts})


if __name__ == "__main__":
    import typer

    typer.run(main)
