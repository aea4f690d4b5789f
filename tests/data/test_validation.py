import json

import numpy as np
import pytest
from PIL import Image

from anymask.data.annotated import AnnotatedImage
from anymask.data.formats import FORMATS, write_dataset
from anymask.data.validation import validate_dataset
from anymask.errors import DataError
from anymask.records import MaskRecord


@pytest.fixture
def images(tmp_path, photo):
    """Two images in memory, whose pictures are on disk."""
    (tmp_path / "pictures").mkdir()
    records = tuple(MaskRecord.from_mask(n + 1, mask, category="x") for n, mask in enumerate(photo.masks_khw))
    found = []
    for name in ("a.jpg", "b.jpg"):
        path = tmp_path / "pictures" / name
        Image.fromarray(photo.image).save(path)
        found.append(AnnotatedImage(name, (120, 160), records, path))
    return found


@pytest.fixture
def folder(tmp_path, images):
    write_dataset(tmp_path / "set", images, "sa1b")
    return tmp_path / "set"


@pytest.mark.parametrize("name", FORMATS)
def test_whole_data_sets_have_no_problems(tmp_path, images, name):
    write_dataset(tmp_path / "set", images, name, overlays=True)
    result = validate_dataset(tmp_path / "set", decode_pictures=True)
    assert result.to_json() == {"format": name, "images": 2, "masks": 8, "problems": []}


def change(path, change_content):
    content = json.loads(path.read_text())
    change_content(content)
    path.write_text(json.dumps(content))


def problems_of(folder, **options):
    found = validate_dataset(folder, **options).problems
    assert all(str(folder) in line and "\n" not in line for line in found)
    return found


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda c: c["annotations"][1].update(area=3), r"annotations[1]: area is 3"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3, 4]), "annotations[1]: bbox is"),
        (lambda c: c["annotations"][1]["segmentation"].update(counts="12"), "annotations[1]: rle counts add up"),
        (lambda c: c["annotations"][1].update(id=1), "same id"),
        (lambda c: c["annotations"][1].update(parent_id=99), "mask 2: parent_id is 99"),
        (lambda c: c["annotations"][1].update(predicted_iou="good"), "annotations[1]: predicted_iou"),
        (lambda c: c["image"].update(file_name="c.jpg"), "file_name is 'c.jpg'"),
        (lambda c: c["image"].update(height=0), "height"),
    ],
)
def test_one_thing_wrong_is_one_line(folder, spoil, word):
    change(folder / "a.json", spoil)
    (line,) = problems_of(folder)
    assert word in line
    assert str(folder / "a.json") in line


def test_everything_wrong_is_found_at_once(folder):
    (folder / "a.jpg").unlink()
    Image.new("RGB", (50, 40)).save(folder / "b.jpg")
    change(
        folder / "b.json",
        lambda c: c["annotations"].append({"id": 7, "segmentation": {"size": [120, 160], "counts": [19200]}}),
    )
    (folder / "c.json").write_text("{")
    lines = problems_of(folder)
    for line, word in zip(
        lines, ["a.jpg: its picture was not found", "mask 7: has no pixels", "is (40, 50)", "c.json"], strict=True
    ):
        assert word in line


def test_cut_off_pictures_are_found_when_looked_into(folder):
    whole = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(whole[: len(whole) // 2])
    assert problems_of(folder) == []
    (line,) = problems_of(folder, decode_pictures=True)
    assert "cannot be decoded" in line
    (folder / "b.jpg").write_text("no picture")
    assert len(problems_of(folder)) == 1


def test_a_file_that_holds_everything_can_be_broken(tmp_path, images):
    write_dataset(tmp_path / "coco", images, "coco")
    path = tmp_path / "coco" / "annotations.json"
    change(path, lambda c: c.update(categories=3))
    assert "categories" in validate_dataset(path).problems[0]
    path.write_text("{")
    assert "JSON" in validate_dataset(path).problems[0]
    with pytest.raises(DataError, match="no such file"):
        validate_dataset(tmp_path / "nowhere")


def test_no_images_at_all_are_a_problem(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n")
    assert validate_dataset(tmp_path).problems == [f"{tmp_path}: has no images"]


def test_progress_is_told(folder):
    seen = []
    validate_dataset(folder, on_image=seen.append)
    assert [image.file_name for image in seen] == ["a.jpg", "b.jpg"]


def test_masks_the_reference_measured_are_right(folder):
    def shorten(content):
        for entry in content["annotations"]:
            entry["bbox"] = list(np.array(entry["bbox"]) - [0, 0, 1, 1])

    change(folder / "a.json", shorten)
    assert problems_of(folder) == []


@pytest.mark.shared
@pytest.mark.parametrize("name", ["coco/train", "coco/instances_train.json", "wbc/zeroshot"])
def test_real_sets_have_no_problems(shared_data, name):
    assert validate_dataset(shared_data / name).problems == []
