# SPDX-License-Identifier: Apache-2.0
"""Bytes to pictures; each family makes tiles of them.

Ordinary JPEG goes through simplejpeg and torch (about three times as fast as Pillow, decode
bit-equal, resize within 1 of 255); everything unusual goes through Pillow. Pixels stay uint8: they
are normalised on the device.
"""

import io

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from owl.config.run import ImageLibrary
from owl.errors import DataError
from owl.portable.pixels_owl import MODES_WITHOUT_RANGE, Pixels, to_rgb

MIN_SIDE = 4
MAX_SIDE = 16384
MAX_PIXELS = 80_000_000  # below the size at which Pillow warns of a decompression bomb
MAX_ASPECT = 200

CODECS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that Pillow may try; a shard must not reach its rarer decoders."""
EXIF_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height as displayed, from the header alone.

    Raises:
        DataError: E307 not a picture of a known format, E308 a damaged header, E309 a size or
            E310 a pixel format that is refused.
    """
    if size := _plain_jpeg_size(data):
        return size
    with _open(data) as image:
        return _checked_size(image)


def check_size(width: int, height: int) -> None:
    """Raise E309 for a picture that is too small, too large or too long."""
    long, short = max(width, height), min(width, height)
    if short < MIN_SIDE or long > MAX_SIDE:
        raise DataError(
            "E309", f"a picture of {width}x{height}: each side must be {MIN_SIDE}..{MAX_SIDE}."
        )
    if width * height > MAX_PIXELS:
        raise DataError("E309", f"a picture of {width}x{height} has more than {MAX_PIXELS} pixels.")
    if long > MAX_ASPECT * short:
        raise DataError(
            "E309",
            f"a picture of {width}x{height} is over {MAX_ASPECT} times as long as wide.",
        )


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
    check_size(width, height)
    return width, height


def _is_turned(jpeg: bytes) -> bool:
    """Whether EXIF turns it; Pillow only opens it when there is an EXIF block."""
    if b"Exif\x00\x00" not in jpeg[: 1 << 16]:
        return False
    with _open(jpeg) as image:
        return _orientation(image) != 1


def _checked_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as displayed. Raises DataError E309, and E310 for a mode without a range."""
    if image.mode in MODES_WITHOUT_RANGE:
        raise DataError(
            "E310", f"a picture of mode {image.mode} has no defined range; store 8 or 16 bit."
        )
    width, height = image.size[::-1] if _orientation(image) in SIDEWAYS else image.size
    check_size(width, height)
    return width, height


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a picture that has been opened but not loaded."""
    # For a PNG getexif() would decode all pixels to look for a block after them.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # a broken EXIF block: show the picture as it is stored, as browsers do
        return 1


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=CODECS)
    except UnidentifiedImageError as error:
        raise DataError(
            "E307", f"the bytes ({data[:8]!r}...) are none of {', '.join(CODECS)}."
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError("E309", f"{error}") from error
    except Exception as error:  # a broken header: Pillow raises what the codec's parser meets
        raise DataError("E308", f"the picture's header cannot be read: {error}.") from error


def _decode_with_pillow(data: bytes) -> Pixels:
    with _open(data) as image:
        _checked_size(image)  # before any memory is spent on pixels
        orientation = _orientation(image)
        try:
            image.load()
            upright = to_rgb(image)
        except Exception as error:  # damaged bytes: Pillow raises whatever its parsers meet
            raise DataError("E308", f"the picture cannot be decoded: {error}.") from error
        if orientation in UPRIGHT:
            upright = upright.transpose(UPRIGHT[orientation])
        return np.array(upright)
