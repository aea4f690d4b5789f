"""Any picture as RGB: HxWx3 uint8, from a file, a PIL image or an array.

What becomes of each kind:

- EXIF orientation is applied; of several frames or pages the first is taken.
- Transparent pixels (RGBA, LA, palettes with transparency) lie on white.
- 16-bit grey, 32-bit integer (`I`) and float (`F`) images and uint16 arrays are stretched linearly from their
  own [minimum, maximum] to [0, 255], because microscopes and depth cameras use a small part of the range
  (assumed to be what people need); an image of one single value becomes black. A 16-bit colour FILE is
  reduced to its high bytes by Pillow instead.
- Float arrays hold [0, 1], bool arrays black and white.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from anymask.errors import ImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

# 500 megapixels: 1.5 GB as RGB; the largest slide scans and aerial photos opened whole (assumed).
MAX_IMAGE_PIXELS = 500_000_000

ImageSource = str | Path | Image.Image | np.ndarray

_HIGH_RANGE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_ARRAY_RULE = "HxW, HxWx1, HxWx3 (RGB) or HxWx4 (RGBA), at least 1x1, of uint8, uint16, bool, or float within [0, 1]"
_pillow_limit_lock = threading.Lock()


def read_image(source: ImageSource) -> np.ndarray:
    """The picture HxWx3 uint8 RGB, C-contiguous and writable, by the rules at the head of this module.

    `source` is a path, a PIL image or an array (HxW, HxWx1, HxWx3, HxWx4). An array that already is what is
    asked for comes back itself, not a copy.

    Raises ImageError, naming the file or the argument, for a file that is missing, empty, cut off or no
    image, for more than `MAX_IMAGE_PIXELS` pixels, and for arrays of another shape, type or range.
    """
    if isinstance(source, str | Path):
        with _open_image(source) as image:
            try:
                return _rgb_from_pillow(image)
            except Exception as error:  # decoders of broken files raise nearly anything
                raise ImageError(f"{source}: cannot be decoded as an image ({error})") from error
    if isinstance(source, Image.Image):
        _check_pixel_count("source", source.size)
        try:
            return _rgb_from_pillow(source)
        except Exception as error:
            raise ImageError(f"source, a PIL image of mode {source.mode}, cannot be read ({error})") from error
    if isinstance(source, np.ndarray):
        return _rgb_from_array(source)
    raise ImageError(f"source is a {type(source).__name__}; allowed: a path, a PIL image or a numpy array")


def image_size_hw(path: str | Path) -> tuple[int, int]:
    """The size (height, width) that `read_image` will give, from the file's header alone.

    Only a TIFF with an orientation is decoded. Raises ImageError like `read_image`.
    """
    with _open_image(path) as image:
        try:
            if image.format == "TIFF" and _orientation(image) != 1:
                image.load()  # Pillow turns these while loading; before it, its versions disagree on the size
            width, height = image.size
            swapped = _orientation(image) in (5, 6, 7, 8)
        except Exception as error:
            raise ImageError(f"{path}: cannot be decoded as an image ({error})") from error
    return (width, height) if swapped else (height, width)


def list_images(folder: str | Path, recursive: bool = False) -> list[Path]:
    """The image files (by `IMAGE_SUFFIXES`, in any case) of a folder, sorted; hidden files are left out.

    Raises ImageError when `folder` is not a folder. An empty list is an answer.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"folder {folder} is not a folder; allowed: an existing folder of images")
    paths = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


@contextmanager
def _open_image(path: str | Path) -> Iterator[Image.Image]:
    """A file opened by Pillow, header read and pixel count checked, or an ImageError that names it."""
    path = Path(path)
    if not path.exists():
        raise ImageError(f"{path}: no such file; allowed: an image file")
    if path.is_dir():
        raise ImageError(f"{path}: is a folder; allowed: an image file")
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: is empty (0 bytes); allowed: an image file")
        with _raised_pillow_limit():
            image = Image.open(path)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path}: has more than {MAX_IMAGE_PIXELS} pixels, the most allowed") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{path}: is not an image that Pillow knows, or its header is cut off") from error
    except Exception as error:
        raise ImageError(f"{path}: cannot be read as an image ({error})") from error
    with image:
        _check_pixel_count(str(path), image.size)
        yield image


@contextmanager
def _raised_pillow_limit() -> Iterator[None]:
    """Pillow refuses from 179 megapixels on, by one global; it is raised only while a header is read here.

    The lock keeps two readers from restoring each other's value. Code elsewhere that opens a file in the same
    instant meets the higher limit, nothing worse.
    """
    with _pillow_limit_lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_pixel_count(name: str, size_wh: tuple[int, int]) -> None:
    width, height = size_wh
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageError(f"{name}: has {width}x{height} pixels; allowed: at most {MAX_IMAGE_PIXELS}")
    if width * height == 0:
        raise ImageError(f"{name}: has {width}x{height} pixels; allowed: at least 1x1")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; a damaged EXIF block must not cost the picture."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _rgb_from_pillow(image: Image.Image) -> np.ndarray:
    image.load()
    if _orientation(image) in range(2, 9):
        image = ImageOps.exif_transpose(image)
    if image.mode in _HIGH_RANGE_MODES:
        return _three_channels(_stretch(np.array(image)))
    if image.has_transparency_data:
        return _over_white(np.array(image.convert("RGBA")))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _rgb_from_array(array: np.ndarray) -> np.ndarray:
    shape = array.shape
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))):
        channels_first = array.ndim == 3 and array.size > 0 and shape[0] in (1, 3, 4)
        hint = "; this looks like CxHxW: pass source.transpose(1, 2, 0)" if channels_first else ""
        raise ImageError(f"source has shape {shape}; allowed: {_ARRAY_RULE}{hint}")
    _check_pixel_count("source", (shape[1], shape[0]))
    has_alpha = array.ndim == 3 and shape[2] == 4
    if array.dtype == np.uint8:
        pixels = array
    elif array.dtype == np.uint16:
        pixels = _stretch(array[..., :3] if array.ndim == 3 else array)
        if has_alpha:
            pixels = np.concatenate([pixels, _to_uint8(array[..., 3:] / 65535)], axis=2)
    elif array.dtype == np.bool_:
        pixels = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        pixels = _to_uint8(array)
    else:
        raise ImageError(f"source is an array of {array.dtype}; allowed: {_ARRAY_RULE}")
    return _over_white(pixels) if has_alpha else _three_channels(pixels)


def _to_uint8(unit: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1] as bytes, to the nearest."""
    lowest, highest = float(unit.min()), float(unit.max())
    if not (lowest >= 0 and highest <= 1):  # also true of NaN
        raise ImageError(
            f"source is a {unit.dtype} array with values {lowest:g} to {highest:g}; allowed: {_ARRAY_RULE}"
        )
    return np.rint(unit * np.float32(255)).astype(np.uint8)


def _stretch(values: np.ndarray) -> np.ndarray:
    """Any numbers as bytes, the smallest as 0 and the largest as 255."""
    lowest, highest = float(values.min()), float(values.max())
    if not np.isfinite(highest - lowest):
        raise ImageError(f"source has pixel values from {lowest} to {highest}; allowed: finite ones")
    if highest == lowest:
        return np.zeros(values.shape, dtype=np.uint8)
    # Single precision holds 16 bits exactly and halves the memory; 32-bit integers need the double.
    wide: np.ndarray = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    return np.rint((wide - lowest) * (255 / (highest - lowest))).astype(np.uint8)


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.require(pixels, dtype=np.uint8, requirements=["C", "W"])


def _over_white(rgba: np.ndarray) -> np.ndarray:
    """HxWx4 uint8 composed over a white ground; opaque pixels keep their exact colour."""
    white = Image.new("RGBA", (rgba.shape[1], rgba.shape[0]), (255, 255, 255, 255))
    picture = Image.fromarray(np.ascontiguousarray(rgba))
    return np.array(Image.alpha_composite(white, picture).convert("RGB"))
