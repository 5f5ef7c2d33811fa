# SPDX-License-Identifier: Apache-2.0
"""Loads pictures and videos from paths, URLs, bytes and arrays.

Decoded with Pillow alone, to the same pixels as in training, by the same reader.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from PIL import Image, ImageSequence
from torch import Tensor

from owl.portable.picture_reader_owl import FORMATS, PictureError, open_picture, upright_rgb
from owl.portable.video_owl import open_video, upright_frame

URL_TIMEOUT_SECONDS = 30
DEFAULT_MAX_FRAMES = 16  # of the model cards
ANIMATED = {".gif", ".webp", ".png", ".apng"}


class MediaError(ValueError):
    """A picture or video cannot be used; the message names it."""


# Pictures.


def load_picture(source: Any) -> Image.Image:
    """Open a picture as upright RGB.

    Args:
        source: path, http(s) or data URL, bytes, PIL picture, or uint8 array or tensor
            [h, w], [h, w, 3] or [3, h, w].

    Raises:
        MediaError: it cannot be read.
    """
    if isinstance(source, Image.Image):
        return _upright(source, "that was opened")
    if isinstance(source, np.ndarray | Tensor):
        return _from_array(np.asarray(source))
    data = source if isinstance(source, bytes) else _read(source)
    name = "the bytes given" if isinstance(source, bytes) else shorten(source)
    try:
        image = open_picture(data)
    except PictureError as error:
        raise _unusable(name, error) from error
    with image:
        return _upright(image, name)


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        return upright_rgb(image)
    except PictureError as error:
        raise _unusable(name, error) from error


def _unusable(name: str, error: PictureError) -> MediaError:
    reason = error.message.removeprefix("the picture cannot be decoded: ")
    return MediaError(f"picture {name} cannot be decoded: {reason}")


def shorten(source: Any) -> str:
    """Return a source as text of at most about 200 characters, for messages."""
    text = str(source)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _read(source: str | Path) -> bytes:
    """Fetch the bytes of a path or URL."""
    text = str(source)
    try:
        if text.startswith("data:"):
            return base64.b64decode(text.partition(",")[2], validate=True)
        if text.startswith(("http://", "https://")):
            with urlopen(text, timeout=URL_TIMEOUT_SECONDS) as answer:
                data: bytes = answer.read()
                return data
        return Path(text.removeprefix("file://")).read_bytes()
    except (OSError, ValueError) as error:
        raise MediaError(f"{shorten(text)} cannot be read: {error}.") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8:
        raise MediaError(
            f"a picture array of {array.dtype} has no defined range: give uint8, 0..255."
        )
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise MediaError(
            f"a picture array of shape {list(array.shape)}: give [h, w], [h, w, 3] or [3, h, w]."
        )
    return upright_rgb(Image.fromarray(np.ascontiguousarray(array)))


# Videos.


def load_frames(source: Any, max_frames: int | None = None) -> list[Image.Image]:
    """Open a video as frames.

    Args:
        source: a list of pictures; a uint8 array [frames, h, w, 3]; a path or URL of an animated
            picture or, with PyAV installed, of a video.
        max_frames: most frames; of more, the middles of that many equal parts are taken. None
            keeps a list as it is, as published, and means DEFAULT_MAX_FRAMES otherwise.

    Raises:
        MediaError: it cannot be read, or holds no frame.
    """
    most = DEFAULT_MAX_FRAMES if max_frames is None else max_frames
    if isinstance(source, list | tuple):
        kept = range(len(source)) if max_frames is None else spread(len(source), most)
        frames = [load_picture(source[index]) for index in kept]
    elif isinstance(source, np.ndarray | Tensor):
        array = np.asarray(source)
        frames = [_from_array(array[index]) for index in spread(len(array), most)]
    elif Path(str(source)).suffix.lower() in ANIMATED:
        frames = _animation(source, most)
    else:
        frames = _video(source, most)
    if not frames:
        raise MediaError(f"video {shorten(source)} holds no frame.")
    return frames


def spread(count: int, most: int) -> list[int]:
    """Choose frames: all of them, or the middles of `most` equal parts (published)."""
    if count <= most:
        return list(range(count))
    gap = count / most
    return [int(part * gap + gap / 2) for part in range(most)]


def one_a_second(count: int, frames_per_second: float, most: int) -> list[int]:
    """Choose one frame a second, then at most `most` of those (published)."""
    step = max(round(frames_per_second), 1)
    seconds = range(0, count, step)
    return [seconds[index] for index in spread(len(seconds), most)]


def _animation(source: str | Path, max_frames: int) -> list[Image.Image]:
    data = _read(source)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            frames = [upright_rgb(frame) for frame in ImageSequence.Iterator(image)]
            milliseconds = image.info.get("duration") or 100
    except Exception as error:  # Pillow raises whatever the parsers of damaged files meet
        reason = str(error).rstrip(".")
        raise MediaError(f"video {shorten(source)} cannot be decoded: {reason}.") from error
    chosen = one_a_second(len(frames), 1000 / milliseconds, max_frames)
    return [frames[index] for index in chosen]


def _video(source: str | Path, max_frames: int) -> list[Image.Image]:
    try:
        import av
    except ImportError as error:
        raise MediaError(
            f"video {shorten(source)} needs PyAV: pip install av, or give the frames as a list of "
            "pictures."
        ) from error
    data = _read(source)
    try:
        with open_video(av, io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 1)
            count = int(stream.frames) or len(list(container.decode(stream)))
        wanted = one_a_second(count, rate, max_frames)
        with open_video(av, io.BytesIO(data)) as container:
            return _pick(container.decode(container.streams.video[0]), wanted)
    except Exception as error:  # ffmpeg's errors have no useful common base
        raise MediaError(f"video {shorten(source)} cannot be decoded: {error}.") from error


def _pick(frames: Any, wanted: Sequence[int]) -> list[Image.Image]:
    """Select the frames at the wanted, increasing indices."""
    left, chosen = set(wanted), []
    for index, frame in enumerate(frames):
        if index in left:
            chosen.append(upright_frame(frame))
            left.discard(index)
        if not left:
            break
    return chosen
