# SPDX-License-Identifier: Apache-2.0
"""Animated GIF, WebP and PNG as videos, decoded with Pillow, one frame in memory at a time.

Conversion for training and owl.hf share this module; a copy of it travels with exported folders.
"""

import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate

from PIL import Image

from owl.portable.media.frames_owl import FrameTimes
from owl.portable.picture_reader_owl import (
    MAX_PIXELS,
    PNG_START,
    PictureError,
    check_size,
    open_picture,
    upright_rgb,
)

START_BYTES = 16
"""As many decide what a file is."""
DEFAULT_MILLISECONDS = 100
"""Of a frame for which the file says 0 or nothing, as browsers show it."""
MAX_ANIMATED_PIXELS = 25 * MAX_PIXELS
"""Of all frames together; a few hundred kilobytes can claim any number, and each has to be decoded
to reach the next."""


def is_animation(start: bytes) -> bool:
    """Whether a file with this start is a picture that may have several frames."""
    is_webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return is_webp or start.startswith((b"GIF87a", b"GIF89a", PNG_START))


class Animation:
    """An open animation, or a still picture, as a video of one frame.

    Args:
        data: the file.

    Raises:
        PictureError: E307 to E310 as for a picture, E309 too many pixels in all frames.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        with self._opened() as image:
            frames = _count(image)
            stored = _stored_milliseconds(data)
            if len(stored) != frames:  # damaged, or with what is not read here
                stored = [image.info.get("duration") for _ in _walk(image, range(frames))]
            milliseconds = [shown or DEFAULT_MILLISECONDS for shown in stored]
        ends = [end / 1000 for end in accumulate(milliseconds)]
        self.times = FrameTimes([0.0, *ends[:-1]], ends[-1])

    def __enter__(self) -> "Animation":
        return self

    def __exit__(self, *error: object) -> None:
        self._data = b""

    def decode(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Yield the frames of increasing indices. Raises PictureError E308."""
        with self._opened() as image:
            for _ in _walk(image, indices):
                yield upright_rgb(image)

    def _opened(self) -> Image.Image:
        return open_picture(self._data, animated=True)


def _count(image: Image.Image) -> int:
    """Return the number of frames. Raises PictureError E308, E309."""
    width, height = image.size
    check_size(width, height)
    try:
        frames = int(getattr(image, "n_frames", 1))
    except Exception as error:  # damaged bytes: Pillow raises whatever its parsers meet
        raise PictureError("E308", f"its frames cannot be counted: {error}") from error
    if frames * width * height > MAX_ANIMATED_PIXELS:
        raise PictureError(
            "E309",
            f"it has {frames} frames of {width}x{height}, more than {MAX_ANIMATED_PIXELS} pixels "
            "in all. Shorten or shrink it",
        )
    return frames


def _walk(image: Image.Image, indices: Sequence[int]) -> Iterator[None]:
    """Show frame after frame of an opened picture. Raises PictureError E308."""
    for index in indices:
        try:
            image.seek(index)
            image.load()
        except Exception as error:  # damaged bytes: Pillow raises whatever its parsers meet
            raise PictureError("E308", f"frame {index} cannot be decoded: {error}") from error
        yield


# How long each frame is shown: Pillow says so only after decoding all frames before it.


def _stored_milliseconds(data: bytes) -> list[float | None]:
    """Read the time of each frame from the headers of an animation; [] if they are not as usual."""
    read = _gif_times if data.startswith(b"GIF") else _chunk_times
    try:
        return list(read(data))
    except (IndexError, struct.error, ZeroDivisionError):
        return []


def _gif_times(data: bytes) -> Iterator[float]:
    at = 13 + _color_table(data[10])
    hundredths = 0
    while data[at] in (EXTENSION, FRAME):
        if data[at] == FRAME:
            yield 10.0 * hundredths
            at += 11 + _color_table(data[at + 9])
        else:
            if data[at + 1] == CONTROL:
                hundredths = struct.unpack_from("<H", data, at + 4)[0]
            at += 2
        while data[at]:  # parts of at most 255 bytes
            at += 1 + data[at]
        at += 1


def _color_table(flags: int) -> int:
    """Bytes of the table of colors that the flags of a GIF announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


EXTENSION, FRAME, CONTROL = 0x21, 0x2C, 0xF9
"""First bytes of a GIF's blocks, and the kind of extension that has the time of the next frame."""


def _chunk_times(data: bytes) -> Iterator[float]:
    """The same of the chunks of WebP and PNG."""
    is_png = data.startswith(PNG_START)
    at, trailer = (8, 4) if is_png else (12, 0)
    while at + 8 <= len(data):
        if is_png:
            size, kind = struct.unpack_from(">I4s", data, at)
        else:
            kind, size = struct.unpack_from("<4sI", data, at)
        if kind == b"fcTL":
            count, parts = struct.unpack_from(">HH", data, at + 28)
            yield 1000 * count / (parts or 100)
        elif kind == b"ANMF":
            yield int.from_bytes(data[at + 20 : at + 23], "little")
        at += 8 + size + trailer + (size % 2 if not is_png else 0)
