"""Semantic label maps, folders of instance masks, BSDS500's ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anymask.data.annotated import Problems
from anymask.data.bsds import read_bsds, read_bsds_truth
from anymask.data.label_maps import read_instance_folders, read_semantic
from anymask.errors import DataError


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_connected_regions_of_a_label_are_masks_of_their_own(tmp_path: Path) -> None:
    labels = np.zeros((5, 8), dtype=np.uint8)
    labels[:2, :2] = labels[2, 2] = 3  # they touch at a corner
    labels[4, 6:] = 3
    labels[0, 5:] = 9
    labels[:, 4] = 255
    save(tmp_path / "labels" / "a_L.png", labels)
    save(tmp_path / "images" / "a.jpg", np.zeros((5, 8, 3), dtype=np.uint8))
    (image,) = read_semantic(tmp_path / "labels")
    assert image.image_path == tmp_path / "images" / "a.jpg"
    assert [(record.category, record.area) for record in image.records] == [("3", 5), ("3", 2), ("9", 3)]
    np.testing.assert_array_equal(sum(record.mask for record in image.records), (labels > 0) & (labels < 255))


def test_one_picture_for_each_mask(tmp_path: Path) -> None:
    masks = np.zeros((2, 6, 7), dtype=np.uint8)
    masks[0, :3] = masks[1, 2:, 5:] = 255
    for number, mask in enumerate(masks):
        save(tmp_path / "x" / "masks" / f"{number}.png", mask)
        save(tmp_path / "y" / f"{number}.png", np.dstack([mask, 0 * mask, mask]))  # in colours
    save(tmp_path / "x" / "images" / "x.png", np.zeros((6, 7, 3), dtype=np.uint8))
    images = list(read_instance_folders(tmp_path))
    assert [image.stem for image in images] == ["x", "y"]
    assert images[0].image_path == tmp_path / "x" / "images" / "x.png"
    assert images[1].image_path is None
    for image in images:
        np.testing.assert_array_equal([record.mask for record in image.records], masks > 0)


def test_what_is_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no PNG files"):
        list(read_semantic(tmp_path))
    with pytest.raises(DataError, match="no folders"):
        list(read_instance_folders(tmp_path))
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"a\.png"):
        list(read_semantic(tmp_path))
    save(tmp_path / "z" / "1.png", np.ones((3, 3), dtype=np.uint8))
    save(tmp_path / "z" / "2.png", np.ones((3, 4), dtype=np.uint8))
    problems = Problems(collect=True)
    assert list(read_instance_folders(tmp_path, problems=problems)) == []
    assert "one size" in problems.found[0]


def write_bsds(path: Path, drawings: list[np.ndarray]) -> None:
    """A .mat file as BSDS500 has them."""
    from scipy.io import savemat

    from anymask.geometry.boundaries import label_boundaries

    cells = np.empty((1, len(drawings)), dtype=object)
    for index, labels in enumerate(drawings):
        cells[0, index] = {"Segmentation": labels.astype(np.uint16), "Boundaries": label_boundaries(labels)}
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"groundTruth": cells})


def test_every_annotators_regions_are_masks(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    left = np.ones((6, 8), dtype=int)
    left[:, 5:] = 2
    write_bsds(tmp_path / "groundTruth" / "test" / "1.mat", [left, np.ones((6, 8), dtype=int)])
    save(tmp_path / "images" / "test" / "1.jpg", np.zeros((6, 8, 3), dtype=np.uint8))
    (image,) = read_bsds(tmp_path / "groundTruth" / "test")
    assert image.image_path == tmp_path / "images" / "test" / "1.jpg"
    assert [(record.extra["annotator"], record.area) for record in image.records] == [(0, 30), (0, 18), (1, 48)]
    first, second = read_bsds_truth(tmp_path / "groundTruth" / "test" / "1.mat")
    assert np.flatnonzero(first.boundary_hw.all(axis=0)).tolist() == [4]
    assert not second.boundary_hw.any()


def test_other_files_are_no_ground_truth(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    with pytest.raises(DataError, match=r"no \.mat files"):
        list(read_bsds(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        read_bsds_truth(tmp_path / "1.mat")
    (tmp_path / "1.mat").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"1\.mat: is no BSDS ground truth"):
        read_bsds_truth(tmp_path / "1.mat")


@pytest.mark.shared
def test_bsds_as_it_comes(shared_data: Path) -> None:
    pytest.importorskip("scipy")
    image = next(iter(read_bsds(shared_data / "bsds500" / "groundTruth" / "test")))
    assert image.image_path == shared_data / "bsds500" / "test" / "100007.jpg"
    assert {record.extra["annotator"] for record in image.records} == {0, 1, 2, 3, 4}
    assert sum(record.area for record in image.records) == 5 * 321 * 481
