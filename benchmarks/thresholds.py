"""Thresholds for automatic masks: what each choice finds and how many masks it takes, on held-out photos.

    python benchmarks/thresholds.py DATA [--weights FILE] [--images 8] [--cache FOLDER]

DATA is the folder of the training sets with its `splits.json`; photos are of COCO's and BSDS500's val parts. Candidates
of 32x32 points are made once an image and kept in the cache folder; every choice is then a selection among them. For
each choice and set: masks an image, share of the annotated objects found at IoU 0.5, average recall (IoU 0.5 to 0.95),
and the share of the masks that lie on an annotated object at all, which is low on COCO, where little is annotated.

Chosen thresholds belong into `GENERATOR_DEFAULTS` of `training/export.py`; `set_generator_defaults` of
`model/checkpoints.py` writes them into a weights file that is there already.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import typer
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.progress import track
from rich.table import Table

import anymask
from anymask.data.sa1b import Sa1bFolder, read_split
from anymask.geometry.boxes import box_nms
from anymask.model.checkpoints import fingerprint

SETS = ("coco/train", "bsds500/train")
FEWEST = {"pred_iou_thresh": 0.35, "stability_score_thresh": 0.3}
CHOICES = {
    "pred_iou_thresh": (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
    "stability_score_thresh": (0.4, 0.5, 0.6, 0.7, 0.8),
    "box_nms_thresh": (0.7, 0.8, 0.9),
}
MOST_MASKS = 200
RECALL_IOUS = np.arange(0.5, 1, 0.05)


def candidates(model: Any, sample: Any, path: Path) -> dict[str, Any]:
    """Predicted IoU, stability, box and overlap with each annotated object of all masks that pass `FEWEST`."""
    if path.exists():
        return pickle.loads(path.read_bytes())
    open_to_all = {"box_nms_thresh": 1.0, "min_mask_region_area": 0, "has_hierarchy": False}
    records = anymask.MaskGenerator(model, **FEWEST, **open_to_all).generate(sample.read_image())
    truth = [annotation.rle for annotation in sample.annotations]
    found = {
        "iou": np.array([record.predicted_iou for record in records]),
        "stability": np.array([record.stability_score for record in records]),
        "boxes_xyxy": np.array([(x, y, x + w, y + h) for x, y, w, h in (one.bbox_xywh for one in records)]),
        "overlaps": coco_mask.iou([one.segmentation for one in records], truth, [0] * len(truth)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(found))
    return found


def score(found: dict[str, Any], iou: float, stability: float, nms: float) -> list[float]:
    """Masks, recall at 0.5, average recall, share of masks on an object, for one image and choice."""
    if not len(found["iou"]):
        return [0.0] * 4
    passed = np.flatnonzero((found["iou"] >= iou) & (found["stability"] >= stability))
    kept = passed[box_nms(found["boxes_xyxy"][passed], nms)][:MOST_MASKS] if len(passed) else passed
    overlaps = found["overlaps"][kept]
    best = overlaps.max(axis=0, initial=0)
    on_object = (overlaps.max(axis=1) >= RECALL_IOUS[0]).mean() if len(kept) else 0.0
    return [len(kept), (best >= RECALL_IOUS[0]).mean(), (best >= RECALL_IOUS[:, None]).mean(), on_object]


def main(
    data: Path,
    weights: Path | None = None,
    images: int = 8,
    cache: Path = Path("out/thresholds"),
) -> None:
    model = anymask.load_model("tiny", checkpoint=weights)
    jobs = [(name, image) for name in SETS for image in sorted(read_split(data / "splits.json", name, "val"))[:images]]
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, image in track(jobs, "candidates"):
        sample = Sa1bFolder(data / name, [image])[0]
        if sample.annotations:
            found[name].append(candidates(model, sample, cache / fingerprint(model) / f"{image}.pkl"))
    table = Table(*(key.removesuffix("_thresh") for key in CHOICES), box=None)
    for name in SETS:
        table.add_column(f"{name}: masks, recall, AR, on object")
    for choice in product(*CHOICES.values()):
        means = (np.mean([score(one, *choice) for one in found[name]], axis=0) for name in SETS)
        table.add_row(*map(str, choice), *("  ".join(f"{value:6.2f}" for value in mean) for mean in means))
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
