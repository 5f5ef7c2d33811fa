# SPDX-License-Identifier: Apache-2.0
"""Loads pictures and videos from paths, URLs, bytes and arrays.

Decoded to the same pixels as in training, by the same readers.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from owl.portable.media.fetch_owl import FetchError, open_source, read_source
from owl.portable.media.frames_owl import (
    DEFAULT_MAX_FRAMES,
    FrameSampling,
    FrameTimes,
    SamplingMode,
    spread,
)
from owl.portable.media.video_owl import open_clip
from owl.portable.picture_reader_owl import PictureError, open_picture, upright_rgb


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
    name = _name(source)
    try:
        image = open_picture(read_source(source))
    except FetchError as error:
        raise MediaError(f"{name} cannot be read: {error}.") from error
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
    most = 60 if text.startswith("data:") else 200
    return text if len(text) <= most else f"{text[:most]}..."


def _name(source: Any) -> str:
    is_named = not isinstance(source, bytes | bytearray | memoryview)
    return shorten(source) if is_named else "the bytes given"


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


@dataclass(frozen=True)
class Clip:
    """A video with its own choice of frames, where it differs from that of the call.

    Args:
        source: as load_frames takes it.
        start: second at which it begins.
        end: second at which it ends; by default the end of the file.
        fps: frames a second, by the file's time stamps.
        max_frames: most frames.
    """

    source: Any
    start: float = 0.0
    end: float = float("inf")
    fps: float | None = None
    max_frames: int | None = None


def load_frames(
    source: Any, max_frames: int | None = None, fps: float | None = None
) -> list[Image.Image]:
    """Open a video as frames.

    Args:
        source: a list of pictures; a uint8 array [frames, h, w, 3]; a path, URL or bytes of an
            animated picture or, with PyAV installed, of a video; or a Clip of one of these.
        max_frames: most frames; of more, the middles of that many equal parts are taken. None
            keeps a list as it is, as published, and means DEFAULT_MAX_FRAMES otherwise.
        fps: of a file what is shown at each 1 / fps seconds, by its time stamps; None takes every
            round(frames per second)-th frame, as published.

    Raises:
        MediaError: it cannot be read, or holds no frame.
    """
    clip = source if isinstance(source, Clip) else Clip(source)
    clip = replace(clip, fps=clip.fps or fps, max_frames=clip.max_frames or max_frames)
    name = _name(clip.source)
    if isinstance(clip.source, list | tuple | np.ndarray | Tensor):
        if clip != Clip(clip.source, max_frames=clip.max_frames):
            raise MediaError(
                "a video of single frames has no times: start, end and fps need a file. Choose the "
                "frames, or use max_frames."
            )
        frames = _listed_frames(clip.source, clip.max_frames)
    else:
        frames = _file_frames(clip, name)
    if not frames:
        raise MediaError(f"video {name} holds no frame.")
    return frames


def _listed_frames(source: Any, max_frames: int | None) -> list[Image.Image]:
    if isinstance(source, list | tuple):
        kept = range(len(source)) if max_frames is None else spread(len(source), max_frames)
        return [load_picture(source[index]) for index in kept]
    array = np.asarray(source)
    return [_from_array(array[index]) for index in spread(len(array), _most(max_frames))]


def _most(max_frames: int | None) -> int:
    return DEFAULT_MAX_FRAMES if max_frames is None else max_frames


def _file_frames(clip: Clip, name: str) -> list[Image.Image]:
    sampling = FrameSampling(
        mode=SamplingMode.fps if clip.fps is None else SamplingMode.time,
        fps=clip.fps or 1.0,
        max_frames=_most(clip.max_frames),
    )
    try:
        with open_source(clip.source) as file, open_clip(file) as video:
            within = _within(video.times, clip)
            seconds = video.times.seconds[within.start : within.stop]
            chosen = sampling.choose(seconds, video.times.fps)
            return list(video.decode([within[index] for index in chosen]))
    except FetchError as error:
        raise MediaError(f"{name} cannot be read: {error}.") from error
    except PictureError as error:
        reason = error.message.rstrip(".")
        raise MediaError(f"video {name} cannot be decoded: {reason}.") from error
    except OSError as error:
        raise MediaError(f"video {name} cannot be read: {error}.") from error


def _within(times: FrameTimes, clip: Clip) -> range:
    try:
        return times.between(clip.start, clip.end)
    except ValueError as error:
        raise MediaError(f"video {_name(clip.source)}: {error}.") from error
