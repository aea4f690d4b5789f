import threading

import numpy as np
import pytest
from PIL import ExifTags, Image

from anymask.data import images as images_module
from anymask.data.images import image_size_hw, list_images, read_image
from anymask.errors import ImageError

RED, GREEN, BLUE, BLACK, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0], [255, 255, 255]
CORNERS = np.array([[RED, GREEN, BLUE], [BLACK, WHITE, RED]], dtype=np.uint8)  # 2x3, no symmetry

# What must be done to the stored pixels to see them upright, by the EXIF standard's table.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


def assert_is_rgb(image):
    assert isinstance(image, np.ndarray)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.flags.c_contiguous
    assert image.flags.writeable


def saved(folder, name, image, **options):
    path = folder / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_files_come_back_exactly(tmp_path, photo, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path, f"a.{suffix}", Image.fromarray(photo.image), **options)
    for source in (path, str(path)):
        image = read_image(source)
        assert_is_rgb(image)
        np.testing.assert_array_equal(image, photo.image)
    assert image_size_hw(path) == photo.image.shape[:2]


def test_jpeg(tmp_path, photo):
    path = saved(tmp_path, "a.jpg", Image.fromarray(photo.image), quality=98, subsampling=0)
    image = read_image(path)
    assert_is_rgb(image)
    assert np.abs(image.astype(int) - photo.image).mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = saved(tmp_path, f"turned.{suffix}", Image.fromarray(CORNERS), exif=exif)
    expected = UPRIGHT[orientation](CORNERS)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size_hw(path) == expected.shape[:2]
    with Image.open(path) as opened:
        np.testing.assert_array_equal(read_image(opened), expected)


def test_exif_orientation_of_a_jpeg(tmp_path, photo):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = saved(tmp_path, "turned.jpg", Image.fromarray(photo.image), exif=exif, quality=98, subsampling=0)
    image = read_image(path)
    assert image.shape == (160, 120, 3)
    assert image_size_hw(path) == (160, 120)
    assert np.abs(image.astype(int) - np.rot90(photo.image, -1)).mean() < 5


@pytest.mark.parametrize("value", [0, 9])
def test_an_orientation_that_is_none_is_ignored(tmp_path, value):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    path = saved(tmp_path, "odd.png", Image.fromarray(CORNERS), exif=exif)
    np.testing.assert_array_equal(read_image(path), CORNERS)
    assert image_size_hw(path) == (2, 3)


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    path = saved(tmp_path, "odd.png", Image.fromarray(CORNERS), exif=b"Exif\x00\x00nonsense")
    np.testing.assert_array_equal(read_image(path), CORNERS)


def test_grey_is_repeated(tmp_path):
    grey = np.array([[0, 100, 255]], dtype=np.uint8)
    image = read_image(saved(tmp_path, "grey.png", Image.fromarray(grey)))
    assert_is_rgb(image)
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))


def test_one_bit_is_black_and_white(tmp_path):
    bits = np.array([[True, False, True]])
    image = read_image(saved(tmp_path, "bits.png", Image.fromarray(bits)))
    np.testing.assert_array_equal(image, [[WHITE, BLACK, WHITE]])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lie_on_white(tmp_path, mode):
    pixels = {
        "RGBA": [[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]],
        "LA": [[[70, 255], [70, 0], [0, 51]]],
    }[mode]
    expected = [[RED if mode == "RGBA" else [70] * 3, WHITE, [204] * 3]]
    picture = Image.fromarray(np.array(pixels, dtype=np.uint8))
    assert picture.mode == mode
    np.testing.assert_array_equal(read_image(picture), expected)
    np.testing.assert_array_equal(read_image(saved(tmp_path, "a.png", picture)), expected)


def test_opaque_rgba_keeps_every_colour(photo):
    opaque = np.dstack([photo.image, np.full(photo.image.shape[:2], 255, dtype=np.uint8)])
    np.testing.assert_array_equal(read_image(opaque), photo.image)
    np.testing.assert_array_equal(read_image(Image.fromarray(opaque)), photo.image)


def palette_picture():
    picture = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    picture.putdata([0, 1, 2])
    picture.putpalette(RED + GREEN + BLUE)
    return picture


def test_palette(tmp_path):
    path = saved(tmp_path, "palette.png", palette_picture())
    np.testing.assert_array_equal(read_image(path), [[RED, GREEN, BLUE]])


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_palette_with_transparency(tmp_path, transparency):
    path = saved(tmp_path, "palette.png", palette_picture(), transparency=transparency)
    np.testing.assert_array_equal(read_image(path), [[RED, WHITE, BLUE]])


def test_rgb_with_one_transparent_colour(tmp_path):
    path = saved(tmp_path, "a.png", Image.fromarray(CORNERS), transparency=(0, 255, 0))
    expected = CORNERS.copy()
    expected[0, 1] = 255
    np.testing.assert_array_equal(read_image(path), expected)


def test_cmyk(tmp_path, photo):
    cmyk = Image.fromarray(photo.image).convert("CMYK")
    np.testing.assert_array_equal(read_image(saved(tmp_path, "a.tif", cmyk)), photo.image)
    image = read_image(saved(tmp_path, "a.jpg", cmyk, quality=95))
    assert_is_rgb(image)
    assert np.abs(image.astype(int) - photo.image).mean() < 8


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_stretched(tmp_path, suffix):
    values = np.array([[1000, 1200, 2000]], dtype=np.uint16)
    picture = Image.fromarray(values)
    expected = np.repeat(np.array([[[0], [51], [255]]]), 3, axis=2)
    for source in (values, values[..., None], picture, saved(tmp_path, f"a.{suffix}", picture)):
        image = read_image(source)
        assert_is_rgb(image)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_integer_and_float_images_are_stretched(tmp_path, dtype):
    values = np.array([[-50, -30, 50]], dtype=dtype)
    path = saved(tmp_path, "a.tif", Image.fromarray(values))
    with Image.open(path) as opened:
        assert opened.mode in ("I", "F")
    np.testing.assert_array_equal(read_image(path)[..., 0], [[0, 51, 255]])


def test_one_single_value_becomes_black():
    np.testing.assert_array_equal(read_image(np.full((2, 2), 777, dtype=np.uint16)), np.zeros((2, 2, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_float_images_with_numbers_that_are_none(tmp_path, bad):
    path = saved(tmp_path, "bad.tif", Image.fromarray(np.array([[0, bad]], dtype=np.float32)))
    with pytest.raises(ImageError, match=r"bad\.tif.*finite"):
        read_image(path)


def test_sixteen_bit_colour_arrays():
    values = np.array([[[0, 500, 1000], [250, 1000, 0]]], dtype=np.uint16)
    np.testing.assert_array_equal(read_image(values), [[[0, 128, 255], [64, 255, 0]]])
    alpha = np.array([[[65535], [0]]], dtype=np.uint16)
    np.testing.assert_array_equal(read_image(np.concatenate([values, alpha], axis=2)), [[[0, 128, 255], WHITE]])


def test_an_array_that_is_right_is_not_copied(photo):
    assert read_image(photo.image) is photo.image


def test_views_and_read_only_arrays_come_back_usable(photo):
    turned = read_image(photo.image.transpose(1, 0, 2))
    assert_is_rgb(turned)
    np.testing.assert_array_equal(turned, photo.image.transpose(1, 0, 2))
    photo.image.setflags(write=False)
    assert_is_rgb(read_image(photo.image))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_grey_arrays(rng, shape):
    values = rng.integers(0, 256, shape, dtype=np.uint8)
    image = read_image(values)
    assert_is_rgb(image)
    np.testing.assert_array_equal(image, np.repeat(values.reshape(4, 5, 1), 3, axis=2))


def test_bool_arrays():
    np.testing.assert_array_equal(read_image(np.array([[True, False]])), [[WHITE, BLACK]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_are_scaled_to_the_nearest(dtype):
    values = np.array([[0, 0.2, 0.5, 1]], dtype=dtype)
    np.testing.assert_array_equal(read_image(values)[..., 0], [[0, 51, 128, 255]])


def test_float_array_with_alpha():
    values = np.array([[[1, 0, 0, 1], [1, 0, 0, 0]]], dtype=np.float32)
    np.testing.assert_array_equal(read_image(values), [[RED, WHITE]])


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.full((2, 2, 3), 1.5), "values 1.5 to 1.5"),
        (np.array([[-0.1, 0.5]]), "values -0.1 to 0.5"),
        (np.array([[np.nan, 0.5]]), "nan"),
        (np.zeros((2, 2, 3), dtype=np.int64), "int64"),
        (np.zeros((2, 2), dtype=complex), "complex128"),
        (np.array([["a"]]), "allowed: HxW"),
        (np.zeros(5, dtype=np.uint8), r"\(5,\)"),
        (np.zeros((2, 2, 2), dtype=np.uint8), r"\(2, 2, 2\)"),
        (np.zeros((0, 5, 3), dtype=np.uint8), r"\(0, 5, 3\)"),
        (np.zeros((1, 4, 5, 3), dtype=np.uint8), r"\(1, 4, 5, 3\)"),
        (np.zeros((3, 20, 30), dtype=np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((1, 20, 30), dtype=np.float32), r"transpose\(1, 2, 0\)"),
    ],
)
def test_arrays_that_are_no_image(array, word):
    with pytest.raises(ImageError, match=word) as caught:
        read_image(array)
    assert "source" in str(caught.value)
    assert "allowed" in str(caught.value)


@pytest.mark.parametrize("source", [None, 3, b"bytes", [[1, 2], [3, 4]]])
def test_other_things_are_no_source(source):
    with pytest.raises(ImageError, match=f"source is a {type(source).__name__}"):
        read_image(source)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1)])
def test_the_thinnest_images(tmp_path, rng, shape):
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    path = saved(tmp_path, "thin.png", Image.fromarray(pixels))
    for source in (pixels, path):
        np.testing.assert_array_equal(read_image(source), pixels)
    assert image_size_hw(path) == shape


def test_a_very_wide_image(tmp_path):
    path = saved(tmp_path, "wide.png", Image.new("L", (20_000, 30), 7))
    assert read_image(path).shape == (30, 20_000, 3)
    assert image_size_hw(path) == (30, 20_000)


def test_pillow_limit_is_raised_here_and_nowhere_else(tmp_path, monkeypatch):
    path = saved(tmp_path, "large.png", Image.new("L", (300, 200), 7))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert read_image(path).shape == (200, 300, 3)
    assert image_size_hw(path) == (200, 300)
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(ImageError):
        read_image(tmp_path / "missing.png")
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_pillow_limit_survives_many_threads(tmp_path, monkeypatch):
    path = saved(tmp_path, "large.png", Image.new("L", (300, 200), 7))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    shapes = []
    threads = [
        threading.Thread(target=lambda: shapes.extend(read_image(path).shape for _ in range(10))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == [(200, 300, 3)] * 80
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("limit", [59_999, 20_000])  # Pillow only warns up to twice the limit
def test_too_many_pixels(tmp_path, monkeypatch, limit):
    path = saved(tmp_path, "bomb.png", Image.new("L", (300, 200)))
    monkeypatch.setattr(images_module, "MAX_IMAGE_PIXELS", limit)
    for function in (read_image, image_size_hw):
        with pytest.raises(ImageError, match=rf"bomb\.png.*{limit}"):
            function(path)
    with pytest.raises(ImageError, match=str(limit)):
        read_image(np.zeros((200, 300), dtype=np.uint8))
    with pytest.raises(ImageError, match=str(limit)):
        read_image(Image.new("L", (300, 200)))


def test_files_that_are_no_image(tmp_path, photo):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image at all")
    (tmp_path / "folder.jpg").mkdir()
    for name, word in {
        "empty.jpg": "empty",
        "text.jpg": "not an image",
        "folder.jpg": "folder",
        "missing.jpg": "no such file",
        "nul\x00.jpg": "no such file|null",
    }.items():
        for function in (read_image, image_size_hw):
            with pytest.raises(ImageError, match=word) as caught:
                function(tmp_path / name)
            assert name in str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_truncated_files(tmp_path, photo, suffix, kept):
    path = saved(tmp_path, f"cut.{suffix}", Image.fromarray(photo.image))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ImageError, match=f"cut.{suffix}"):
        read_image(path)


def test_a_damaged_png(tmp_path, photo):
    path = saved(tmp_path, "damaged.png", Image.fromarray(photo.image))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"damaged\.png"):
        read_image(path)


def test_a_closed_picture():
    picture = Image.fromarray(CORNERS)
    picture.close()
    with pytest.raises(ImageError, match="source"):
        read_image(picture)


def test_only_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, "pages.tif", frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(path), np.broadcast_to(RED, (3, 4, 3)))


def test_listing_a_folder(tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "folder.png").mkdir()
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt", "a.json", "deeper/c.tiff"):
        (tmp_path / name).touch()
    assert list_images(tmp_path) == [tmp_path / "a.png", tmp_path / "b.JPG"]
    assert list_images(str(tmp_path), recursive=True) == [
        tmp_path / name for name in ("a.png", "b.JPG", "deeper/c.tiff")
    ]
    assert list_images(tmp_path / "folder.png") == []
    for wrong in ("missing", "notes.txt"):
        with pytest.raises(ImageError, match=wrong):
            list_images(tmp_path / wrong)
