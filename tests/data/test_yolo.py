import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import annotated_images, datasets, save_pictures

from anymask.data.annotated import AnnotatedImage, Problems
from anymask.data.yolo import read_yolo, write_yolo
from anymask.errors import DataError
from anymask.geometry.masks import mask_iou
from anymask.records import MaskRecord


def shown(images):
    """What YOLO's files hold of images: names, sizes, and each mask with its class, but no empty masks."""
    return [
        (image.file_name, image.size_hw, [(r.segmentation, r.category) for r in image.records if r.area])
        for image in images
    ]


@given(datasets())
def test_what_is_written_is_read(images):
    with tempfile.TemporaryDirectory() as folder:
        write_yolo(folder, images)
        save_pictures(Path(folder) / "images", images)
        assert shown(read_yolo(folder)) == shown(images)


@given(annotated_images(), st.sampled_from([0.5, 1.0, 4.0]))
def test_simplified_masks_overlap_the_exact_ones(image, tolerance):
    with tempfile.TemporaryDirectory() as folder:
        write_yolo(folder, [image], tolerance=tolerance)
        save_pictures(Path(folder) / "images", [image])
        (found,) = read_yolo(folder)
        records = [record for record in image.records if record.area]
        for record, other in zip(records, found.records, strict=True):
            assert mask_iou(record.mask, other.mask) >= 0.9


def test_the_widest_images_are_exact_too(tmp_path):
    mask = np.zeros((2, 60_001), dtype=bool)
    mask[0, 7::211] = mask[1, 3::211] = mask[0, -1] = True
    image = AnnotatedImage("a.png", mask.shape, (MaskRecord.from_mask(1, mask),))
    write_yolo(tmp_path, [image])
    save_pictures(tmp_path / "images", [image])
    (found,) = read_yolo(tmp_path)
    np.testing.assert_array_equal(found.records[0].mask, mask)


def test_a_written_line_is_what_training_wants(tmp_path):
    mask = np.zeros((4, 8), dtype=bool)
    mask[1:3, 2:6] = True
    record = MaskRecord.from_mask(1, mask, category="cat")
    write_yolo(tmp_path, [AnnotatedImage("train/a.jpg", (4, 8), (record,)), AnnotatedImage("val/b.jpg", (4, 8))])
    words = (tmp_path / "labels" / "train" / "a.txt").read_text().split()
    assert words[0] == "0"
    assert {tuple(map(float, pair)) for pair in zip(words[1::2], words[2::2], strict=True)} == {
        (0.25, 0.25),
        (0.75, 0.25),
        (0.75, 0.75),
        (0.25, 0.75),
    }
    assert (tmp_path / "labels" / "val" / "b.txt").read_text() == ""
    assert (tmp_path / "classes.txt").read_text() == "cat\n"
    assert (tmp_path / "data.yaml").read_text() == (
        'path: .\ntrain: images/train\nval: images/val\nnames:\n  0: "cat"\n'
    )


def test_classes_go_on_where_the_folder_has_some(tmp_path):
    def image(name, category):
        return AnnotatedImage(name, (2, 2), (MaskRecord.from_mask(1, np.ones((2, 2), bool), category=category),))

    write_yolo(tmp_path, [image("a.jpg", "cat")])
    write_yolo(tmp_path, [image("b.jpg", "dog"), image("c.jpg", None)])
    assert (tmp_path / "classes.txt").read_text() == "cat\ndog\nobject\n"
    save_pictures(tmp_path / "images", [AnnotatedImage(name, (2, 2)) for name in ("a.jpg", "b.jpg", "c.jpg")])
    assert [found.records[0].category for found in read_yolo(tmp_path)] == ["cat", "dog", None]
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse" / "data.yaml").write_text("names: {0: bird, 3: cat}")
    write_yolo(tmp_path / "sparse", [image("a.jpg", "cat"), image("b.jpg", "dog")])
    assert (tmp_path / "sparse" / "labels" / "a.txt").read_text().startswith("3 ")
    assert (tmp_path / "sparse" / "classes.txt").read_text() == "bird\n\n\ncat\ndog\n"
    write_yolo(tmp_path / "other", [image("a.jpg", "dog")], class_names=["cat", "dog"])
    assert (tmp_path / "other" / "labels" / "a.txt").read_text().startswith("1 ")


@pytest.fixture
def folder(tmp_path):
    """A foreign folder: labels beside the pictures, no names."""
    save_pictures(tmp_path, [AnnotatedImage("a.jpg", (10, 20)), AnnotatedImage("b.jpg", (10, 20))])
    (tmp_path / "a.txt").write_text("3 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n\n")
    return tmp_path


def test_labels_beside_pictures_and_names_of_any_kind(folder):
    labelled, bare = read_yolo(folder)
    assert [(record.category, record.area) for record in labelled.records] == [("3", 32)]
    assert bare.records == ()
    for text in ("names: [a, b, c, d]", "names:\n- a\n- b\n- c\n- d", "names: {3: d}", "nc: 4\nnames:\n  3: 'd'"):
        (folder / "data.yaml").write_text(text)
        assert next(iter(read_yolo(folder))).records[0].category == "d"


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("3 0.5 0.5 0.1 0.1", "holds a box"),
        ("3 0.5 0.5 0.1 0.1 0.2", "5 numbers"),
        ("3", "0 numbers"),
        ("cat 0.1 0.1 0.5 0.1 0.5 0.5", "class's number"),
        ("-1 0.1 0.1 0.5 0.1 0.5 0.5", "class is -1"),
        ("1 0.1 0.1 0.5 0.1 0.5 zero", "class's number"),
        ("1 0.1 0.1 0.5 0.1 0.5 nan", "leaves the image"),
        ("1 100 100 500 100 500 500", "leaves the image"),
    ],
)
def test_broken_lines_are_named(folder, line, word):
    with (folder / "a.txt").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=rf"a\.txt: line 3: .*{word}"):
        list(read_yolo(folder))
    problems = Problems(collect=True)
    labelled, _ = read_yolo(folder, problems=problems)
    assert len(labelled.records) == len(problems.found) == 1


def test_broken_folders(folder):
    (folder / "c.txt").write_text("")
    with pytest.raises(DataError, match=r"c\.txt: no image"):
        list(read_yolo(folder))
    (folder / "c.txt").unlink()
    for text in ("names: 5", "{", "names: {cat: 1}", "- x"):
        (folder / "data.yaml").write_text(text)
        with pytest.raises(DataError, match=r"data\.yaml"):
            list(read_yolo(folder))
    (folder / "data.yaml").write_text("names: [a]")
    with pytest.raises(DataError, match="class is 3"):
        list(read_yolo(folder))
    (folder / "data.yaml").unlink()
    (folder / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"a\.txt: is not readable"):
        list(read_yolo(folder))
    with pytest.raises(DataError, match="nowhere"):
        list(read_yolo(folder / "nowhere"))


def test_names_in_a_list_need_no_yaml(folder, monkeypatch):
    (folder / "data.yaml").write_text("names: [a, b, c, d]")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(DataError, match=r"PyYAML is needed.*classes\.txt"):
        list(read_yolo(folder))
    (folder / "classes.txt").write_text("a\nb\nc\ne\n")
    assert next(iter(read_yolo(folder))).records[0].category == "e"
    (folder / "classes.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"classes\.txt: is not readable"):
        list(read_yolo(folder))


def test_what_cannot_be_written(tmp_path):
    images = [AnnotatedImage("a.jpg", (2, 2)), AnnotatedImage("a.png", (2, 2))]
    with pytest.raises(DataError, match=r"a\.png and a\.jpg"):
        write_yolo(tmp_path, images)
    record = MaskRecord.from_mask(1, np.ones((2, 2), bool), category="two\nlines")
    with pytest.raises(DataError, match="two"):
        write_yolo(tmp_path, [AnnotatedImage("b.jpg", (2, 2), (record,))])
