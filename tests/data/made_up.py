"""Made-up images with masks, and their pictures on disk, for the tests of the file formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from anymask.data.annotated import AnnotatedImage
from anymask.records import MaskRecord

FILE_NAMES = ("a.jpg", "b c.png", "sa_1.v2.jpg", "Übung.png")
CATEGORIES = (None, "cat", "traffic light", 'Köln "1": #', "42")

unit = st.floats(0, 1)
points = st.lists(st.lists(st.floats(-5, 50), min_size=2, max_size=2), max_size=2)


@st.composite
def annotated_images(draw, most_masks=4):
    """An image up to 9x9 with masks of any shape (empty ones too) and any facts."""
    size_hw = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    masks = draw(st.lists(arrays(bool, size_hw), max_size=most_masks))
    ids = draw(st.lists(st.integers(1, 99), min_size=len(masks), max_size=len(masks), unique=True))
    records = tuple(
        MaskRecord.from_mask(
            mask_id,
            mask,
            predicted_iou=draw(st.none() | unit),
            stability_score=draw(st.none() | unit),
            point_coords=draw(st.none() | points),
            category=draw(st.sampled_from(CATEGORIES)),
            parent_id=draw(st.none() | st.sampled_from(ids)),
            extra=draw(st.sampled_from([{}, {"annotator": 3, "notes": {"by": "A"}}])),
        )
        for mask_id, mask in zip(ids, masks, strict=True)
    )
    return AnnotatedImage("a.jpg", size_hw, records)


@st.composite
def datasets(draw):
    """Up to three images of different names."""
    names = draw(st.lists(st.sampled_from(FILE_NAMES), max_size=3, unique=True).map(sorted))
    return [AnnotatedImage(name, (image := draw(annotated_images())).size_hw, image.records) for name in names]


def save_pictures(folder: Path, images: list[AnnotatedImage]) -> None:
    """A black picture for each image, where its file name says."""
    for image in images:
        path = folder / image.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*image.size_hw, 3), dtype=np.uint8)).save(path)


def contents(images):
    """What must survive a file: names, sizes and records."""
    return [(image.file_name, image.size_hw, image.records) for image in images]
