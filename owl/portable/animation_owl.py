# SPDX-License-Identifier: Apache-2.0
"""Animated GIF, WebP and PNG as videos, decoded with Pillow, one frame in memory at a time.

Conversion for training and owl.hf share this module; a copy of it travels with exported folders.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from PIL import Image

from owl.portable.frames_owl import FrameTimes
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
MAX_ANIMATED_PIXELS = 100 * MAX_PIXELS
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
            milliseconds = [
                image.info.get("duration") or DEFAULT_MILLISECONDS
                for _ in _walk(image, range(frames))
            ]
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
