import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from PIL import Image

from anymask.data import sa1b
from anymask.data.sa1b import Sa1bFolder, read_sample, read_split, write_sa1b
from anymask.errors import DataError, ImageError
from anymask.geometry.rle import encode_rle

SHARED_SETS = {
    "bsds500/train": 11_409,
    "bsds500/test": 5_208,
    "coco/train": 2_605,
    "ccp/train": 3_059,
    "ccp/test": 813,
    "camvid/train": 2_948,
    "camvid/test": 1_242,
    "cats/train": 803,
    "cats/test": 341,
    "dsb2018/train": 6_003,
    "dsb2018/test": 2_853,
    "wbc/zeroshot": 200,
    "magtile/zeroshot": 100,
}


@pytest.fixture
def folder(tmp_path, photo):
    """Three images with JSON: two, four and no masks; and files that are none of the reader's business."""
    for name, count in {"b.png": 2, "a.v2.png": 4, "c.JPEG": 0}.items():
        Image.fromarray(photo.image).save(tmp_path / name)
        write_sa1b((tmp_path / name).with_suffix(".json"), name, (120, 160), photo.masks_khw[:count])
    Image.fromarray(photo.image).save(tmp_path / "unlabelled.jpg")
    (tmp_path / "instances.json").write_text(json.dumps({"images": [], "annotations": []}))
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path


def change(path, change_content):
    content = json.loads(path.read_text())
    change_content(content)
    path.write_text(json.dumps(content))


def test_a_folder_is_a_sorted_sequence_of_samples(folder, photo):
    samples = Sa1bFolder(folder)
    assert samples.names == ["a.v2.png", "b.png", "c.JPEG"]
    assert len(samples) == 3
    assert [len(sample.annotations) for sample in samples] == [4, 2, 0]
    assert samples[-1] == samples[2]
    with pytest.raises(IndexError):
        samples[3]
    np.testing.assert_array_equal(samples[0].masks_khw(), photo.masks_khw)
    np.testing.assert_array_equal(samples[0].read_image(), photo.image)
    assert samples[2].masks_khw().shape == (0, 120, 160)


def test_a_sample_is_what_was_written(folder, photo):
    sample = Sa1bFolder(str(folder))[1]
    assert sample.image_path == folder / "b.png"
    assert sample.json_path == folder / "b.json"
    assert sample.size_hw == (120, 160)
    first = sample.annotations[0]
    rows, columns = np.nonzero(photo.masks_khw[0])
    assert first.id == 1
    assert first.area == photo.masks_khw[0].sum()
    assert first.bbox_xywh == (
        columns.min(),
        rows.min(),
        np.ptp(columns) + 1,
        np.ptp(rows) + 1,
    )
    assert first.rle == encode_rle(photo.masks_khw[0])
    assert first.extra == {"crop_box": [0, 0, 160, 120]}
    with pytest.raises(FrozenInstanceError):
        sample.size_hw = (1, 1)


def test_names_keep_a_part(folder):
    assert Sa1bFolder(folder, names=iter(["c.JPEG", "b.png", "b.png"])).names == ["b.png", "c.JPEG"]
    with pytest.raises(DataError, match=r"nothere\.png"):
        Sa1bFolder(folder, names=["b.png", "nothere.png"])
    with pytest.raises(DataError, match=r"unlabelled\.json"):
        Sa1bFolder(folder, names=["unlabelled.jpg"])
    with pytest.raises(DataError, match="no samples"):
        Sa1bFolder(folder, names=[])


def test_a_drawing_beside_the_photograph_is_not_the_photograph(folder, photo):
    Image.fromarray(photo.image).save(folder / "b.jpg")
    assert Sa1bFolder(folder).names == ["a.v2.png", "b.jpg", "c.JPEG"]


def test_broken_files_elsewhere_are_not_met_before_they_are_read(folder):
    (folder / "b.json").write_text("{")
    samples = Sa1bFolder(folder)
    assert len(samples[0].annotations) == 4
    with pytest.raises(DataError, match=r"b\.json.*JSON"):
        samples[1]


def test_missing_image(folder):
    (folder / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.json: no image beside it"):
        Sa1bFolder(folder)


def test_broken_json_without_an_image(folder):
    (folder / "stray.json").write_text('{"image": ')
    with pytest.raises(DataError, match=r"stray\.json"):
        Sa1bFolder(folder)


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(DataError, match="no samples"):
        Sa1bFolder(tmp_path)
    with pytest.raises(DataError, match=r"nowhere.*not a folder"):
        Sa1bFolder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (
            lambda c: c["annotations"][1]["segmentation"].update(size=[160, 120]),
            r"annotations\[1\].*160, 120",
        ),
        (lambda c: c["annotations"][1].update(segmentation=[[1, 2, 3, 4, 5, 6]]), "segmentation is a list"),
        (lambda c: c["annotations"][1].pop("segmentation"), "segmentation is a NoneType"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3]), "bbox"),
        (lambda c: c["annotations"][1].update(bbox=["a", 2, 3, 4]), "bbox"),
        (lambda c: c["annotations"][1].update(area="large"), "area"),
        (lambda c: c["annotations"].append(7), r"annotations\[2\]: is a int"),
        (lambda c: c["image"].update(height=119), r"annotations\[0\].*119, 160"),
        (lambda c: c["image"].pop("width"), "image height and width"),
        (lambda c: c["image"].update(height=-5), "image height and width"),
        (lambda c: c.pop("image"), "no SA-1B file"),
        (lambda c: c.update(annotations={}), "no SA-1B file"),
    ],
)
def test_broken_content_names_the_file(folder, changed, word):
    change(folder / "b.json", changed)
    with pytest.raises(DataError, match=word) as caught:
        read_sample(folder / "b.png")
    assert str(folder / "b.json") in str(caught.value)


def test_broken_runs_name_the_file(folder):
    change(folder / "b.json", lambda c: c["annotations"][1]["segmentation"].update(counts="000"))
    with pytest.raises(DataError, match=r"b\.json: rles\[1\].*add up"):
        read_sample(folder / "b.png").masks_khw()


def test_text_that_is_not_unicode(folder):
    (folder / "b.json").write_bytes(b'{"image": "\xff\xfe"}')
    with pytest.raises(DataError, match=r"b\.json"):
        read_sample(folder / "b.png")
    with pytest.raises(DataError, match=r"unlabelled\.json: no such file"):
        read_sample(folder / "unlabelled.jpg")


def test_missing_area_and_box_are_worked_out(folder, photo):
    expected = read_sample(folder / "b.png").annotations

    def forget(content):
        for entry in content["annotations"]:
            del entry["area"], entry["bbox"], entry["id"]

    change(folder / "b.json", forget)
    assert read_sample(folder / "b.png").annotations == expected


def test_an_image_of_another_size_is_an_error(folder):
    Image.new("RGB", (50, 40)).save(folder / "b.png")
    with pytest.raises(DataError, match=r"b\.json.*\(120, 160\).*\(40, 50\)"):
        read_sample(folder / "b.png").read_image()
    (folder / "b.png").write_text("no image")
    with pytest.raises(ImageError, match=r"b\.png"):
        read_sample(folder / "b.png").read_image()


def test_written_keys_are_those_of_sa1b(tmp_path, photo):
    extras = [
        {
            "predicted_iou": np.float32(0.5),
            "stability_score": 0.75,
            "point_coords": np.array([[3.5, 4.0]]),
            "crop_box": [0, 0, 80, 60],
            "category": "Köln",
        },
        {},
    ]
    write_sa1b(tmp_path / "x.json", "x.png", (120, 160), photo.masks_khw[:2], extras=extras, image_id=17)
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["image"] == {"image_id": 17, "width": 160, "height": 120, "file_name": "x.png"}
    full, bare = content["annotations"]
    assert set(full) == {"id", "segmentation", "area", "bbox"} | set(extras[0])
    assert full["predicted_iou"] == 0.5
    assert full["point_coords"] == [[3.5, 4.0]]
    assert full["crop_box"] == [0, 0, 80, 60]
    assert full["category"] == "Köln"
    assert set(bare) == {"id", "segmentation", "area", "bbox", "crop_box"}
    assert [full["id"], bare["id"]] == [1, 2]
    assert isinstance(full["segmentation"]["counts"], str)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"size_hw": (160, 120)}, "masks_khw"),
        ({"extras": [{}]}, "extras has 1"),
        ({"extras": [{}, {"area": 3}, {}, {}]}, r"extras\[1\].*area"),
        ({"extras": [{}, {"predicted_iou": float("nan")}, {}, {}]}, r"x\.json: extras"),
        ({"extras": [{}, {"what": object()}, {}, {}]}, r"x\.json: extras"),
    ],
)
def test_what_cannot_be_written_leaves_no_file(tmp_path, photo, changed, word):
    arguments = {"size_hw": (120, 160), "masks_khw": photo.masks_khw} | changed
    with pytest.raises(DataError, match=word):
        write_sa1b(tmp_path / "x.json", "x.png", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(folder, photo, monkeypatch):
    before = (folder / "b.json").read_bytes()
    names = sorted(path.name for path in folder.iterdir())

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sa1b.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_sa1b(folder / "b.json", "b.png", (120, 160), photo.masks_khw)
    assert (folder / "b.json").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == names


def test_splits(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"coco/train": {"train": ["a.jpg"], "val": ["b.jpg"], "odd": [1]}}))
    assert read_split(path, "coco/train", "val") == ["b.jpg"]
    for arguments, word in {
        ("coco/test", "val"): "coco/train",
        ("coco/train", "test"): "'train', 'val'",
        ("coco/train", "odd"): "list of names",
    }.items():
        with pytest.raises(DataError, match=word) as caught:
            read_split(path, *arguments)
        assert str(path) in str(caught.value)


@pytest.mark.shared
@pytest.mark.parametrize("set_name", SHARED_SETS)
def test_real_sets_are_read_whole(shared_data, set_name):
    samples = Sa1bFolder(shared_data / set_name)
    found = 0
    for index, sample in enumerate(samples):
        found += len(sample.annotations)
        if index % 10 == 0:
            masks = sample.masks_khw()
            assert sample.read_image().shape[:2] == masks.shape[1:]
            assert [annotation.area for annotation in sample.annotations] == masks.sum(axis=(1, 2)).tolist()
    assert found == SHARED_SETS[set_name]


@pytest.mark.shared
@pytest.mark.parametrize("set_name", [name for name in SHARED_SETS if name.endswith("/train")])
def test_real_splits_name_samples_of_the_train_sets(shared_data, set_name):
    parts = [set(read_split(shared_data / "splits.json", set_name, part)) for part in ("train", "val")]
    assert not parts[0] & parts[1]
    for part in parts:
        assert part
        assert Sa1bFolder(shared_data / set_name, names=part).names == sorted(part)
