import io
import json
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from anymask.data.sa1b import Sa1bFolder, write_sa1b
from anymask.data.sa1b_tars import Sa1bTars
from anymask.errors import AnymaskError, DataError


@pytest.fixture
def folder(tmp_path):
    """Five samples of different sizes, once as files and once as two tars."""
    files = tmp_path / "files"
    files.mkdir()
    for index in range(5):
        height, width = 64 + 16 * index, 128
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack([rows, columns, np.full_like(rows, 40 * index)], axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(files / f"sa_{index}.jpg", quality=95)
        mask = np.zeros((2, height, width), dtype=bool)
        mask[0, 5:20, 8:30] = mask[1, 30:60, 50:90] = True
        write_sa1b(files / f"sa_{index}.json", f"sa_{index}.jpg", (height, width), mask)
    tars = tmp_path / "tars"
    tars.mkdir()
    for name, indices in (("sa_000000", (0, 1, 2)), ("sa_000001", (3, 4))):
        with tarfile.open(tars / f"{name}.tar", "w") as tar:
            for index in indices:
                for suffix in ("jpg", "json"):
                    tar.add(files / f"sa_{index}.{suffix}", arcname=f"./sa_{index}.{suffix}")
    return tmp_path


def open_tars(folder, **options):
    return Sa1bTars(folder / "tars", folder / "index", **options)


def test_tars_hold_what_the_files_hold(folder):
    files, tars = Sa1bFolder(folder / "files"), open_tars(folder)
    assert len(tars) == len(files) == 5
    for one, other in zip(files, tars, strict=True):
        assert one.size_hw == other.size_hw
        assert [a.rle for a in one.annotations] == [a.rle for a in other.annotations]
        assert np.array_equal(one.read_image(), other.read_image())
        assert np.array_equal(one.masks_khw(), other.masks_khw())
        assert other.image_path.name == one.image_path.name
    with pytest.raises(IndexError):
        tars[5]


@pytest.mark.parametrize(("scale", "shrink"), [(1.0, 1), (0.6, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.01, 8)])
def test_a_picture_is_decoded_no_larger_than_it_must_be(folder, scale, shrink):
    sample = open_tars(folder)[4]
    assert sample.read_image(scale).shape[:2] == (128 // shrink, 128 // shrink)


@pytest.mark.parametrize("hold_out", [2, 3, 5, 7])
def test_what_is_held_out_is_never_trained_on(folder, hold_out):
    names = {
        part: [sample.image_path.name for sample in open_tars(folder, hold_out=hold_out, part=part)]
        for part in ("train", "val")
    }
    assert names["val"] == [f"sa_{index}.jpg" for index in range(0, 5, hold_out)]
    assert sorted(names["train"] + names["val"]) == [f"sa_{index}.jpg" for index in range(5)]


def test_the_index_is_made_once_and_again_when_the_tar_changes(folder):
    open_tars(folder)
    made = {path: path.stat().st_mtime_ns for path in (folder / "index").iterdir()}
    assert len(made) == 2
    open_tars(folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / "index").iterdir()} == made
    with tarfile.open(folder / "tars" / "sa_000001.tar", "a") as tar:
        for suffix in ("jpg", "json"):
            tar.add(folder / "files" / f"sa_0.{suffix}", arcname=f"more/sa_0.{suffix}")
    assert len(open_tars(folder)) == 6


def test_a_hundred_thousand_samples_take_no_memory(folder):
    """The index stays on the disk: what opening costs does not grow with what is in it."""
    tars = open_tars(folder)
    small = tars.indices[0]
    path = small.filename
    np.save(path, np.repeat(np.load(path), 40_000))
    tracemalloc.start()
    many = open_tars(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(many) == 120_002
    assert many[77_777].size_hw == (80, 128)
    assert peak < 200_000


def test_bad_tars_are_named(folder, tmp_path):
    with pytest.raises(DataError, match="holds no tar"):
        Sa1bTars(folder / "files", folder / "index")
    (folder / "tars" / "sa_000002.tar").write_bytes(b"not a tar at all")
    with pytest.raises(DataError, match=r"sa_000002\.tar: cannot be read"):
        open_tars(folder)
    with tarfile.open(folder / "tars" / "sa_000002.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("readme.txt"), io.BytesIO())
    with pytest.raises(DataError, match=r"sa_000002\.tar: holds no sample"):
        open_tars(folder)


def test_a_broken_member_is_named(folder):
    facts = {"image": {"height": 4, "width": 4, "file_name": "a.jpg"}, "annotations": []}
    with tarfile.open(folder / "tars" / "sa_000002.tar", "w") as tar:
        for name, content in {
            "a.jpg": b"no picture", "b.jpg": b"", "a.json": json.dumps(facts).encode(), "b.json": b"{"
        }.items():  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    tars = open_tars(folder)
    with pytest.raises(AnymaskError, match=r"sa_000002\.tar/a\.jpg: is not an image"):
        tars[5].read_image()
    with pytest.raises(DataError, match=r"sa_000002\.tar.*not readable as JSON"):
        tars[6]
