"""BSDS500's own layout: groundTruth/SPLIT/NAME.mat, with what each annotator drew, and images/SPLIT/NAME.jpg.

A .mat holds `groundTruth`, a cell for each annotator with `Segmentation` (a label map) and `Boundaries` (the lines
between its regions, one pixel wide). SciPy reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anymask.data.annotated import AnnotatedImage, Problems
from anymask.data.images import list_images
from anymask.errors import DataError
from anymask.geometry.rle import encode_rle
from anymask.records import MaskRecord


@dataclass(frozen=True, eq=False)
class BsdsAnnotation:
    """What one annotator drew: labels_hw (H, W) integers from 1, boundary_hw (H, W) bool."""

    labels_hw: np.ndarray
    boundary_hw: np.ndarray


def read_bsds_truth(path: str | Path) -> list[BsdsAnnotation]:
    """All annotators' drawings of one image. Raises DataError, naming the file, when it is anything else."""
    from scipy.io import loadmat

    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    try:
        cells = loadmat(path)["groundTruth"].ravel()
        found = [BsdsAnnotation(_field(cell, "Segmentation"), _field(cell, "Boundaries") > 0) for cell in cells]
    except Exception as error:  # SciPy's reader of broken files raises nearly anything
        raise DataError(f"{path}: is no BSDS ground truth ({type(error).__name__}: {error})") from error
    if not found or len({maps.shape for one in found for maps in (one.labels_hw, one.boundary_hw)}) != 1:
        raise DataError(f"{path}: has {len(found)} annotators; allowed: one or more, their maps of one size")
    return found


def read_bsds(
    path: str | Path, images_dir: str | Path | None = None, problems: Problems | None = None
) -> Iterator[AnnotatedImage]:
    """The images of a folder of .mat files, sorted; every annotator's every region is a mask.

    Each record's `extra` says its annotator, from 0. Pictures are looked for in `images_dir`, else where
    `bsds_pictures` looks. Raises DataError, naming the file, for what is broken, or collects it in `problems`.
    """
    problems = problems or Problems()
    pictures = bsds_pictures(path, images_dir)
    for truth in bsds_truths(path):
        image = None
        with problems.at(truth):
            image = _annotated(truth, pictures.get(truth.stem))
        if image is not None:
            yield image


def bsds_pictures(truth_dir: str | Path, images_dir: str | Path | None = None) -> dict[str, Path]:
    """The picture of each name, in `images_dir`, or beside the .mat files, or where BSDS500 has them.

    Those places are images/SPLIT and SPLIT beside groundTruth.
    """
    folder = Path(truth_dir)
    above = folder.parent.parent
    places = [Path(images_dir)] if images_dir else [folder, above / "images" / folder.name, above / folder.name]
    return {file.stem: file for place in reversed(places) if place.is_dir() for file in list_images(place)}


def bsds_truths(folder: str | Path) -> list[Path]:
    """The .mat files of a folder, sorted. Raises DataError when there are none."""
    found = sorted(Path(folder).glob("*.mat"))
    if not found:
        raise DataError(f"{folder}: has no .mat files; allowed: BSDS ground truth, such as groundTruth/test")
    return found


def _annotated(truth: Path, picture: Path | None) -> AnnotatedImage:
    records: list[MaskRecord] = []
    for annotator, annotation in enumerate(read_bsds_truth(truth)):
        for label in np.unique(annotation.labels_hw):
            rle = encode_rle(annotation.labels_hw == label)
            records.append(MaskRecord.from_rle(len(records) + 1, rle, extra={"annotator": annotator}))
    name = picture.name if picture else f"{truth.stem}.jpg"
    return AnnotatedImage(name, records[0].size_hw, tuple(records), picture, truth.stem)


def _field(cell: Any, name: str) -> np.ndarray:
    """One map of an annotator, out of the arrays of one element that SciPy makes of MATLAB's cells."""
    values = np.asarray(cell[name][0, 0] if cell[name].dtype == object else cell[name])
    if values.ndim != 2:
        raise DataError(f"{name} has shape {values.shape}; allowed: (H, W)")
    return values
