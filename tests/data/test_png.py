import tempfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from made_up import contents, datasets, save_pictures
from PIL import Image

from anymask.data.annotated import AnnotatedImage, Problems
from anymask.data.png import read_png, write_overlay, write_png
from anymask.errors import DataError
from anymask.geometry.hierarchy import label_map
from anymask.records import MaskRecord


@given(datasets())
def test_what_is_written_is_read(images):
    with tempfile.TemporaryDirectory() as folder:
        write_png(folder, images)
        assert contents(read_png(folder)) == contents(images)


def numbered(masks, **facts):
    return tuple(MaskRecord.from_mask(n + 1, mask, **facts) for n, mask in enumerate(masks))


@pytest.fixture
def image(photo):
    whole = photo.masks_khw.any(axis=0)
    return AnnotatedImage("a.jpg", (120, 160), numbered([whole, *photo.masks_khw], category="ellipse"))


def test_the_label_map_is_of_16_bits_and_its_preview_has_its_values(tmp_path, image):
    write_png(tmp_path, [image])
    expected = label_map([record.segmentation for record in image.records])
    with Image.open(tmp_path / "a.labels.png") as labels:
        assert labels.mode == "I;16"
        np.testing.assert_array_equal(np.array(labels), expected)
    with Image.open(tmp_path / "a.colour.png") as preview:
        assert preview.mode == "P"
        np.testing.assert_array_equal(np.array(preview), expected)
        colours = np.array(preview.convert("RGB"))
    assert len({tuple(colours[expected == label][0]) for label in np.unique(expected)}) == 5
    assert not colours[expected == 0].any()
    with Image.open(tmp_path / "a.masks" / "00001.png") as single:
        np.testing.assert_array_equal(np.array(single), image.records[0].mask)


def test_more_masks_than_a_palette_has_colours(tmp_path):
    masks = np.eye(300, dtype=bool).reshape(300, 15, 20)
    image = AnnotatedImage("a.jpg", (15, 20), numbered(masks))
    write_png(tmp_path, [image])
    with Image.open(tmp_path / "a.colour.png") as preview:
        assert preview.mode == "RGB"
        assert (np.array(preview).max(axis=2) > 0).all()
    with Image.open(tmp_path / "a.labels.png") as labels:
        assert np.array(labels).max() == 300
    assert contents(read_png(tmp_path)) == contents([image])


def test_masks_of_an_earlier_run_go(tmp_path, image):
    write_png(tmp_path, [image])
    (tmp_path / "a.masks" / "mine.png").write_bytes(b"")
    write_png(tmp_path, [replace(image, records=image.records[:2])])
    assert sorted(path.name for path in (tmp_path / "a.masks").iterdir()) == [
        "00001.png",
        "00002.png",
        "mine.png",
    ]


def test_a_label_map_alone_shows_what_is_visible(tmp_path, image, photo):
    write_png(tmp_path, [image])
    for path in (tmp_path / "a.masks").iterdir():
        path.unlink()
    (tmp_path / "a.masks").rmdir()
    (found,) = read_png(tmp_path)
    assert [record.category for record in found.records] == ["ellipse"] * 5
    assert found.records[0].area == 0  # its parts cover all of it
    np.testing.assert_array_equal(found.records[1].mask, photo.masks_khw[0])


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_a_label_map_from_elsewhere(tmp_path, mode):
    values = np.array([[0, 7, 7], [200, 0, 7]], dtype=np.uint16 if mode == "I;16" else np.uint8)
    picture = Image.fromarray(values)
    if mode == "P":
        picture.putpalette([value for value in range(256) for _ in range(3)])
    picture.save(tmp_path / "x.labels.png")
    (image,) = read_png(tmp_path)
    assert (image.file_name, image.size_hw, image.image_path) == ("x.png", (2, 3), None)
    assert [(record.id, record.area) for record in image.records] == [(7, 3), (200, 1)]
    save_pictures(tmp_path, [AnnotatedImage("x.JPG".lower(), (2, 3))])
    (image,) = read_png(tmp_path)
    assert (image.file_name, image.image_path) == ("x.jpg", tmp_path / "x.jpg")


@pytest.mark.parametrize(
    ("path", "content", "word"),
    [
        ("a.masks/00002.png", b"no picture", "cannot be decoded"),
        ("a.masks/00002.png", None, "no such file"),
        ("a.masks.json", b"{", "JSON"),
        ("a.masks.json", b'{"image": {}, "masks": [{}]}', "no table of masks"),
        ("a.masks.json", b'{"image": {}, "masks": []}', "size"),
    ],
)
def test_broken_files_are_named(tmp_path, image, path, content, word):
    write_png(tmp_path, [image])
    (tmp_path / path).unlink()
    if content is not None:
        (tmp_path / path).write_bytes(content)
    with pytest.raises(DataError, match=word) as caught:
        list(read_png(tmp_path))
    assert str(tmp_path / "a.") in str(caught.value)
    problems = Problems(collect=True)
    for found in read_png(tmp_path, problems=problems):
        assert len(found.records) == 4
    assert len(problems.found) == 1


def test_pictures_that_hold_no_labels(tmp_path, image):
    write_png(tmp_path, [image])
    Image.new("1", (3, 3)).save(tmp_path / "a.masks" / "00001.png")
    with pytest.raises(DataError, match=r"00001\.png: is \(3, 3\)"):
        list(read_png(tmp_path))
    Image.new("RGB", (3, 3)).save(tmp_path / "b.labels.png")
    (tmp_path / "a.masks.json").unlink()
    (tmp_path / "a.labels.png").unlink()
    with pytest.raises(DataError, match=r"b\.labels\.png: has colours"):
        list(read_png(tmp_path))
    with pytest.raises(DataError, match="nowhere"):
        list(read_png(tmp_path / "nowhere"))


def test_an_overlay_keeps_a_masks_colour(tmp_path, image, photo):
    write_overlay(tmp_path / "deep" / "all.png", image, photo.image)
    write_overlay(tmp_path / "one.png", replace(image, records=image.records[2:3]), photo.image)
    one, every = (np.array(Image.open(tmp_path / name)) for name in ("one.png", "deep/all.png"))
    middle = (slice(35, 45), slice(110, 120))  # inside the second ellipse
    np.testing.assert_array_equal(one[middle], every[middle])
    assert (one[middle] != photo.image[middle]).any()
    np.testing.assert_array_equal(one[:10, :10], photo.image[:10, :10])


def test_scores_are_written_and_sizes_checked(tmp_path, image, photo):
    scored = replace(image, records=numbered(photo.masks_khw, predicted_iou=0.93))
    for scores in (False, True):
        write_overlay(tmp_path / f"{scores}.png", scored, photo.image, scores=scores)
    plain, written = (np.array(Image.open(tmp_path / f"{scores}.png")) for scores in (False, True))
    assert (plain != written).any()
    write_overlay(tmp_path / "a.jpg", scored, photo.image)
    with Image.open(tmp_path / "a.jpg") as overlay:
        assert overlay.format == "JPEG"
    with pytest.raises(DataError, match=r"\(60, 160\)"):
        write_overlay(tmp_path / "b.png", scored, photo.image[:60])
