"""Pictures for a browser: upright, in a format that every browser draws, no larger than it can hold; and uploads.

A JPEG, PNG or WebP that already is all that goes out as it lies on the disk. Anything else is converted once and
kept in the cache.
"""

from __future__ import annotations

import hashlib
import io
import threading
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from anymask.data.images import read_image
from anymask.data.sa1b import write_bytes_atomically
from anymask.errors import ImageError
from anymask.geometry.resize import longest_side_size, resize_image
from anymask.server.errors import RefusedError, invalid
from anymask.server.studio import Picture

# The longest side that tablets' browsers still draw into a canvas (assumed from their documented limits).
MAX_SIDE = 8192
BROWSER_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
UPLOAD_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
JPEG_QUALITY = 95
_THUMBNAIL_QUALITY = 85

# One at a time: a large picture takes a gigabyte while it is converted.
_conversion_lock = threading.Lock()


def browser_picture(picture: Picture, cache: Path, max_side: int | None) -> tuple[Path, str]:
    """A file that shows the picture in a browser, and its media type. Refused (422) when it is broken."""
    try:
        if max_side is None and (media_type := _media_type_as_it_is(picture.path)) is not None:
            return picture.path, media_type
        # A PNG is kept exact where it is small, for drawings; a photograph goes as JPEG.
        target = cache / "pictures" / f"{picture.key}-{max_side or MAX_SIDE}.jpg"
        if not target.is_file():
            with _conversion_lock:
                _convert(picture.path, target, max_side or MAX_SIDE)
    except (OSError, ImageError) as error:
        raise invalid(str(error).replace(str(picture.path), picture.path.name)) from error
    return target, "image/jpeg"


def read_upload(content: bytes, max_pixels: int) -> np.ndarray:
    """An uploaded picture HxWx3 uint8 RGB. Refused with 413 for too many pixels, 422 for what is no picture."""
    try:
        with Image.open(io.BytesIO(content), formats=UPLOAD_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _too_large(width, height, max_pixels)
            return read_image(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedError(413, "too_large", f"image is too large; allowed: {max_pixels} pixels") from error
    except RefusedError:
        raise
    except MemoryError as error:
        raise RefusedError(413, "too_large", "image does not fit into memory") from error
    except Exception as error:  # decoders of broken files raise nearly anything
        raise invalid(f"image cannot be read; allowed: {', '.join(UPLOAD_FORMATS)}") from error


def _too_large(width: int, height: int, max_pixels: int) -> RefusedError:
    return RefusedError(413, "too_large", f"image is {width}x{height}; allowed: {max_pixels} pixels")


def _media_type_as_it_is(path: Path) -> str | None:
    """The media type of a file that a browser shows as `read_image` reads it; None for any other."""
    try:
        with Image.open(path) as image:
            is_plain = (
                image.format in BROWSER_FORMATS
                and image.mode in ("RGB", "L", "P", "1")
                and not image.has_transparency_data
                and getattr(image, "n_frames", 1) == 1
                and max(image.size) <= MAX_SIDE
                and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            )
            return BROWSER_FORMATS[image.format or ""] if is_plain else None
    except Exception:  # reading it below says what is wrong
        return None


def _convert(path: Path, target: Path, max_side: int) -> None:
    if target.is_file():  # somebody else waited for the same
        return
    image_hwc = read_image(path)
    size_hw = (image_hwc.shape[0], image_hwc.shape[1])
    if max(size_hw) > max_side:
        image_hwc = resize_image(image_hwc, longest_side_size(size_hw, max_side))
    quality = JPEG_QUALITY if max_side > 1024 else _THUMBNAIL_QUALITY
    done, encoded = cv2.imencode(".jpg", image_hwc[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(f"{path}: cannot be shown")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(target, encoded.tobytes())


def etag(path: Path, media_type: str) -> str:
    """What changes when the file does."""
    status = path.stat()
    return f'"{hashlib.sha256(f"{status.st_size}:{status.st_mtime_ns}:{media_type}".encode()).hexdigest()[:16]}"'
