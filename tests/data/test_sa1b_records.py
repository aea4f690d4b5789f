import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from made_up import contents, datasets, save_pictures

from anymask.data.annotated import AnnotatedImage, Problems
from anymask.data.sa1b import read_sa1b, read_sample, write_sa1b_folder
from anymask.errors import DataError


@given(datasets())
def test_what_is_written_is_read(images):
    with tempfile.TemporaryDirectory() as folder:
        write_sa1b_folder(folder, images)
        save_pictures(Path(folder), images)
        found = list(read_sa1b(folder))
        assert contents(found) == contents(images)
        assert [image.image_path for image in found] == [Path(folder) / image.file_name for image in images]
        for image in found:
            assert read_sample(image.image_path).masks_khw().shape[0] == len(image.records)


@pytest.fixture
def folder(tmp_path, photo):
    from anymask.records import MaskRecord

    records = tuple(MaskRecord.from_mask(10 * n, mask) for n, mask in enumerate(photo.masks_khw, start=1))
    images = [AnnotatedImage("a.jpg", (120, 160), records, image_id=7), AnnotatedImage("b.jpg", (120, 160))]
    write_sa1b_folder(tmp_path, images)
    save_pictures(tmp_path, images)
    (tmp_path / "other.json").write_text('{"images": [], "annotations": []}')
    return tmp_path


def change(path, change_content):
    content = json.loads(path.read_text())
    change_content(content)
    path.write_text(json.dumps(content))


def test_ids_and_pictures_elsewhere(folder, tmp_path_factory):
    image, bare = read_sa1b(folder)
    assert image.image_id == 7
    assert [record.id for record in image.records] == [10, 20, 30, 40]
    assert bare.records == ()
    pictures = tmp_path_factory.mktemp("pictures")
    (folder / "a.jpg").rename(pictures / "a.jpg")
    assert [image.image_path for image in read_sa1b(folder)] == [None, folder / "b.jpg"]
    assert [image.image_path for image in read_sa1b(folder, pictures)] == [pictures / "a.jpg", None]


def test_stated_numbers_matter_to_a_check_alone(folder):
    def spoil(content):
        content["annotations"][0]["area"] = 5
        content["annotations"][1]["bbox"] = [0, 0, 1, 1]
        content["image"]["file_name"] = "c.jpg"

    expected = contents(read_sa1b(folder))
    change(folder / "a.json", spoil)
    assert contents(read_sa1b(folder)) == expected
    problems = Problems(collect=True)
    assert contents(read_sa1b(folder, problems=problems)) == expected
    assert len(problems.found) == 3
    assert all(str(folder / "a.json") in line for line in problems.found)


def test_what_is_broken_names_its_place(folder):
    change(folder / "a.json", lambda content: content["annotations"][2]["segmentation"].update(counts="1"))
    with pytest.raises(DataError, match=r"^[^ ]*a\.json: annotations\[2\]: rle counts add up"):
        list(read_sa1b(folder))
    (folder / "b.json").write_text("{")
    problems = Problems(collect=True)
    (image,) = read_sa1b(folder, problems=problems)
    assert [record.id for record in image.records] == [10, 20, 40]
    assert len(problems.found) == 2


def test_two_images_do_not_share_a_file(tmp_path):
    images = [AnnotatedImage("x/a.jpg", (2, 2)), AnnotatedImage("y/a.png", (2, 2))]
    with pytest.raises(DataError, match=r"y/a\.png and x/a\.jpg"):
        write_sa1b_folder(tmp_path, images)
    write_sa1b_folder(tmp_path, [images[0], replace(images[1], file_name="b.png")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]
