# SPDX-License-Identifier: Apache-2.0
"""Open video files of a source, and store their frames."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from owl.curate.converters.records import ConvertError
from owl.errors import DataError
from owl.portable.media import video_owl
from owl.portable.picture_reader_owl import PictureError


@contextmanager
def open_video_file(path: Path) -> Iterator[video_owl.Clip]:
    """Open a video, or an animated picture; a frame that cannot be decoded ends it likewise.

    Raises:
        DataError: E307 not a video in a known container, E308 it is damaged, E309 an impossible
            size, E313 unusable time stamps.
        OSError: the disk failed.
    """
    with path.open("rb") as file:
        try:
            with video_owl.open_clip(file) as clip:
                yield clip
        except PictureError as error:
            reason = error.message.rstrip(".")
            raise DataError(error.code, f"{path.name!r}: {reason}.") from error


def store_frame(image: Image.Image, *, short_side: int, quality: int) -> bytes:
    """Encode a frame as JPEG, shrunk if its short side is above short_side pixels."""
    scale = short_side / min(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def load_av() -> Any:
    """Import PyAV. Raises ConvertError if it is not installed."""
    try:
        return video_owl.load_av()
    except PictureError as error:
        raise ConvertError(f"--videos: {error.message}.") from error
