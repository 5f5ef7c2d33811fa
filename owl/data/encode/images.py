# SPDX-License-Identifier: Apache-2.0
"""Bytes to pictures; each family makes tiles of them.

Ordinary JPEG goes through simplejpeg and torch (about three times as fast as Pillow, decode
bit-equal, resize within 1 of 255); everything unusual goes through Pillow. Pixels stay uint8: they
are normalised on the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import simplejpeg
from PIL import Image

from owl.config.run import ImageLibrary
from owl.errors import DataError
from owl.portable.picture_reader_owl import (
    XMP_START,
    PictureError,
    check_size,
    find_orientation,
    open_picture,
    shown_size,
    upright_rgb,
)
from owl.portable.picture_reader_owl import picture_suffix as portable_suffix
from owl.portable.pixels_owl import Pixels


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height as displayed, from the header alone.

    Raises:
        DataError: E307 not a picture of a known format, E308 a damaged header, E309 a size or
            E310 a pixel format that is refused.
    """
    if size := _plain_jpeg_size(data):
        return size
    with _coded_errors(), open_picture(data) as image:
        return _checked_size(image)


def picture_suffix(data: bytes) -> str:
    """Return the suffix for the bytes: names are often wrong, and webdataset decodes by suffix.

    Raises:
        DataError: E307, E308, E309.
    """
    with _coded_errors():
        return portable_suffix(data)


def decode_picture(data: bytes, library: ImageLibrary = ImageLibrary.fast) -> Pixels:
    """Decode a picture to RGB, upright, its first frame if there are several.

    The format is detected from the bytes: files under the wrong suffix are common.

    Args:
        data: the picture's bytes.
        library: that decodes.

    Returns:
        [height, width, 3] uint8.

    Raises:
        DataError: E307, E308 undecodable, E309, E310 a pixel format that has no RGB meaning.
    """
    if library == ImageLibrary.fast and _plain_jpeg_size(data):
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
            return pixels
        except ValueError:
            # It rejects every irregularity. Pillow skips stray bytes, which are common in
            # pictures from the web, and refuses a file that ends too early.
            pass
    return _decode_with_pillow(data)


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that needs no conversion or turning, None for anything else.

    Raises:
        DataError: E309, its size is refused.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    is_plain = colorspace in ("YCbCr", "Gray", "RGB") and not _is_turned(data)
    if not is_plain:
        return None
    with _coded_errors():
        check_size(width, height)
    return width, height


def _is_turned(jpeg: bytes) -> bool:
    """Whether EXIF or XMP turns it; Pillow only opens it when there is such a block."""
    header = _before_pixels(jpeg)
    if b"Exif\x00\x00" not in header and XMP_START not in header:
        return False
    with _coded_errors(), open_picture(jpeg) as image:
        return find_orientation(image) != 1


def _before_pixels(jpeg: bytes) -> bytes:
    """Everything before the coded pixels; the whole file if its segments do not follow closely."""
    start = 2
    while jpeg[start : start + 1] == b"\xff":
        marker = jpeg[start + 1 : start + 2]
        if marker == b"\xda":
            return jpeg[:start]
        # Any number of 0xFF may stand before a marker.
        is_padding = marker == b"\xff"
        start += 1 if is_padding else 2 + int.from_bytes(jpeg[start + 2 : start + 4])
    return jpeg


def _checked_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as displayed. Raises PictureError E309, E310."""
    width, height = shown_size(image)
    check_size(width, height)
    return width, height


def _decode_with_pillow(data: bytes) -> Pixels:
    with _coded_errors(), open_picture(data) as image:
        _checked_size(image)
        return np.array(upright_rgb(image))


@contextmanager
def _coded_errors() -> Iterator[None]:
    """Raise the reader's errors as those of a sample."""
    try:
        yield
    except PictureError as error:
        raise DataError(error.code, error.message) from error
