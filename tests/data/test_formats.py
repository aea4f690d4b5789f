import copy
import json
import os
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import contents, save_pictures
from PIL import Image

from anymask.data.annotated import AnnotatedImage, Problems
from anymask.data.formats import FORMATS, convert_dataset, detect_format, read_dataset, write_dataset
from anymask.data.sa1b import Sa1bFolder
from anymask.errors import DataError
from anymask.geometry.masks import mask_iou
from anymask.records import MaskRecord, with_parents

EXACT = {"sa1b": {}, "coco": {}, "yolo": {}, "png": {}, "labelme": {"tolerance": 0}}


def a_dataset():
    """Two images: a whole with two parts, one of them with a hole and an island; and one without masks."""
    whole, part, odd = np.zeros((3, 12, 16), dtype=bool)
    whole[1:11, 1:12] = True
    part[2:5, 2:6] = True
    odd[6:10, 3:8] = True
    odd[7, 5] = False
    odd[0, 15] = True
    records = [
        MaskRecord.from_mask(1, whole, predicted_iou=0.9, category="cat"),
        MaskRecord.from_mask(2, part, stability_score=0.8, point_coords=[[3.0, 3.5]]),
        MaskRecord.from_mask(3, odd, category="hat", extra={"annotator": 2}),
    ]
    return [AnnotatedImage("a.jpg", (12, 16), tuple(with_parents(records))), AnnotatedImage("b.png", (5, 4))]


@pytest.fixture
def source(tmp_path):
    images = a_dataset()
    folder = tmp_path / "source"
    write_dataset(folder, images, "sa1b", pictures="none")
    save_pictures(folder, images)
    return folder


def shown(images):
    """What every format keeps: names, sizes, masks and classes."""
    return [(i.file_name, i.size_hw, [(r.segmentation, r.category) for r in i.records]) for i in images]


@pytest.mark.parametrize("name", FORMATS)
def test_there_and_back_again(source, tmp_path, name):
    original = list(read_dataset(source))
    convert_dataset(source, tmp_path / "there", name, **EXACT[name])
    assert detect_format(tmp_path / "there").name == name
    there = list(read_dataset(tmp_path / "there"))
    assert shown(there) == shown(original)
    if name != "yolo":  # which keeps masks and classes alone
        assert contents(there) == contents(original)
    assert all(image.image_path.is_file() for image in there)
    convert_dataset(tmp_path / "there", tmp_path / "back", "sa1b")
    assert shown(read_dataset(tmp_path / "back")) == shown(original)
    assert [sample.masks_khw().shape[0] for sample in Sa1bFolder(tmp_path / "back")] == [3, 0]


@pytest.mark.parametrize("pictures", ["copy", "link", "none"])
def test_pictures_are_copied_linked_or_left(source, tmp_path, pictures):
    convert_dataset(source, tmp_path / "there", "yolo", pictures=pictures)
    picture = tmp_path / "there" / "images" / "a.jpg"
    assert picture.exists() == (pictures != "none")
    if pictures != "none":
        assert picture.read_bytes() == (source / "a.jpg").read_bytes()
        assert picture.samefile(source / "a.jpg") == (pictures == "link")


def test_where_a_disk_has_no_links_pictures_are_copied(source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    convert_dataset(source, tmp_path / "there", "sa1b", pictures="link")
    assert (tmp_path / "there" / "a.jpg").read_bytes() == (source / "a.jpg").read_bytes()


def test_an_old_linked_picture_is_not_written_through(source, tmp_path):
    convert_dataset(source, tmp_path / "there", "sa1b", pictures="link")
    other = tmp_path / "other"
    write_dataset(other, a_dataset()[:1], "sa1b", pictures="none")
    Image.new("RGB", (16, 12), "red").save(other / "a.jpg")
    before = (source / "a.jpg").read_bytes()
    convert_dataset(other, tmp_path / "there", "sa1b", overwrite=True)
    assert (source / "a.jpg").read_bytes() == before
    assert (tmp_path / "there" / "a.jpg").read_bytes() == (other / "a.jpg").read_bytes()


def test_overlays_and_progress(source, tmp_path):
    seen = []
    convert_dataset(source, tmp_path / "there", "coco", overlays=True, on_image=seen.append)
    assert [image.file_name for image in seen] == ["a.jpg", "b.png"]
    with Image.open(tmp_path / "there" / "overlays" / "a.jpg") as overlay:
        assert overlay.size == (16, 12)
        assert np.array(overlay)[1:11, 1:12].any()
    assert detect_format(tmp_path / "there").name == "coco"


def test_folders_in_names_stay_where_the_format_has_folders(tmp_path):
    images = [AnnotatedImage("train/a.jpg", (2, 2)), AnnotatedImage("val/b.jpg", (2, 2))]
    write_dataset(tmp_path / "coco", images, "coco", pictures="none")
    save_pictures(tmp_path / "coco" / "images", images)
    convert_dataset(tmp_path / "coco", tmp_path / "yolo", "yolo")
    assert [image.file_name for image in read_dataset(tmp_path / "yolo")] == ["train/a.jpg", "val/b.jpg"]
    convert_dataset(tmp_path / "yolo", tmp_path / "sa1b", "sa1b")
    assert [image.file_name for image in read_dataset(tmp_path / "sa1b")] == ["a.jpg", "b.jpg"]


def test_options_belong_to_formats(source, tmp_path):
    convert_dataset(source, tmp_path / "coco", "coco", segmentation="polygon", tolerance=None)
    assert isinstance(
        json.loads((tmp_path / "coco" / "annotations.json").read_text())["annotations"][0]["segmentation"], list
    )
    with pytest.raises(DataError, match="tolerance is nothing that png files have; allowed with: coco, yolo, labelme"):
        convert_dataset(source, tmp_path / "png", "png", tolerance=1.0)
    with pytest.raises(DataError, match=r"segmentation.*allowed with: coco$"):
        convert_dataset(source, tmp_path / "yolo", "yolo", segmentation="polygon")


def test_what_is_refused(source, tmp_path):
    with pytest.raises(DataError, match="'voc'; allowed: sa1b, coco, yolo, png, labelme"):
        convert_dataset(source, tmp_path / "x", "voc")
    with pytest.raises(DataError, match="is where the source lies"):
        convert_dataset(source, source, "labelme")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(DataError, match="not empty"):
        convert_dataset(source, tmp_path / "full", "coco")
    with pytest.raises(DataError, match="is a file"):
        convert_dataset(source, tmp_path / "full" / "file", "coco")
    with pytest.raises(DataError, match="pictures is 'move'"):
        convert_dataset(source, tmp_path / "y", "coco", pictures="move")
    (source / "b.png").unlink()
    with pytest.raises(DataError, match="picture was not found"):
        convert_dataset(source, tmp_path / "z", "coco")


def test_unknown_places(tmp_path):
    with pytest.raises(DataError, match="in no known format"):
        detect_format(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        detect_format(tmp_path / "nowhere")
    for name, text in (("list.json", "[]"), ("notes.txt", "hello")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=r"no COCO (instance )?file"):
            list(read_dataset(tmp_path / name))
    with pytest.raises(DataError, match="'voc'"):
        read_dataset(tmp_path, "voc")


values = st.sampled_from([None, True, -1, 3, 1e308, float("nan"), "", "x", [], [1], [[1, 2]], {}, {"size": [1, 1]}])


def places(node, path=()):
    """The paths to everything inside a JSON value."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def complaint(folder, name, problems):
    """What the reader says when it gives up, None when it does not."""
    try:
        list(read_dataset(folder, name, problems=problems))
    except DataError as error:
        return str(error)
    return None


FILES = {"sa1b": "a.json", "coco": "annotations.json", "labelme": "a.json", "png": "a.masks.json"}


@pytest.fixture(scope="module")
def whole_files():
    """Each JSON format's folder, made once, and the content of its file."""
    with tempfile.TemporaryDirectory() as root:
        found = {}
        for name, file in FILES.items():
            folder = Path(root) / name
            write_dataset(folder, a_dataset()[:1], name, pictures="none")
            found[name] = (folder / file, json.loads((folder / file).read_text()))
        yield found


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_any_damage_is_read_or_named(whole_files, name, data):
    path, content = whole_files[name]
    damaged = copy.deepcopy(content)
    place = data.draw(st.sampled_from(list(places(content))), label="place")
    node = damaged
    for key in place[:-1]:
        node = node[key]
    if isinstance(node, dict) and data.draw(st.booleans(), label="gone"):
        del node[place[-1]]
    else:
        node[place[-1]] = data.draw(values, label="value")
    path.write_text(json.dumps(damaged))
    for problems in (Problems(), Problems(collect=True)):
        message = complaint(path.parent, name, problems)
        assert message is None or str(path.parent) in message


@pytest.mark.shared
@pytest.mark.parametrize("set_name", ["coco/train", "bsds500/train", "camvid/train", "dsb2018/train"])
@pytest.mark.parametrize("name", FORMATS)
def test_real_masks_survive_every_format(shared_data, tmp_path, set_name, name):
    images = list(islice(read_dataset(shared_data / set_name), 3))
    write_dataset(tmp_path / "exact", images, name, pictures="link", **EXACT[name])
    assert shown(read_dataset(tmp_path / "exact")) == shown(images)
    if "tolerance" in FORMATS[name].options:
        more = {"segmentation": "polygon"} if name == "coco" else {}
        write_dataset(tmp_path / "rough", images, name, pictures="link", tolerance=1.0, **more)
        for image, found in zip(images, read_dataset(tmp_path / "rough"), strict=True):
            for record, other in zip(image.records, found.records, strict=True):
                assert mask_iou(record.mask, other.mask) >= 0.9


@pytest.mark.shared
def test_coco_itself_is_read(shared_data):
    images = list(read_dataset(shared_data / "coco" / "instances_train.json"))
    assert len(images) == 314
    assert sum(len(image.records) for image in images) == 2_623
    assert all(image.image_path is not None for image in images)
