# SPDX-License-Identifier: Apache-2.0
"""Reads videos: files that PyAV decodes, and animated pictures, which Pillow does.

Conversion for training and owl.hf share this module; a copy of it travels with exported folders.
PyAV is imported only when a video is read.
"""

import errno
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, BinaryIO, Protocol

from PIL import Image

from owl.portable.media.animation_owl import START_BYTES, Animation, is_animation
from owl.portable.media.frames_owl import FrameTimes
from owl.portable.picture_reader_owl import MAX_FILE_BYTES, PictureError, check_size

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi",
    "mpegts",
    "mpeg",
    "ogg",
    "flv",
    "asf",
)
"""Formats that contain their frames. With playlists and concatenations, FFmpeg would open any file
or address that they name."""
OPEN_OPTIONS = {
    "format_whitelist": ",".join(CONTAINERS),
    "protocol_whitelist": "none",  # a second barrier: there is no such protocol
}
INDEXED = CONTAINERS[:2]
"""Formats that store each frame's time, so that a frame is found without decoding the others."""


class Clip(Protocol):
    """An open video or animation."""

    @property
    def times(self) -> FrameTimes:
        """When its frames are shown; known before any of them is kept."""

    def decode(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Yield the frames of increasing indices, upright, all of the size of the first.

        Raises:
            PictureError: E308 a frame cannot be decoded, E309 it has an impossible size.
        """


@contextmanager
def open_clip(file: BinaryIO) -> Iterator[Clip]:
    """Open a video, or an animated GIF, WebP or PNG, told from its first bytes.

    Args:
        file: at its start; it stays open. Reading it may raise OSError.

    Raises:
        PictureError: E307 not a video in a known container, with a known codec, or PyAV is not
            installed; E308 it is damaged; E309 an impossible size; E313 unusable time stamps.
    """
    start = file.read(START_BYTES)
    file.seek(0)
    if is_animation(start):
        if len(data := file.read(MAX_FILE_BYTES + 1)) > MAX_FILE_BYTES:
            raise PictureError("E309", f"it has more than {MAX_FILE_BYTES} bytes")
        with Animation(data) as animation:
            yield animation
        return
    av = load_av()
    with _readable(av, file, "E307", "it is not a video in a known container"):
        container = _open(av, file)
    with container:
        yield _Video(av, file, container)


def load_av() -> Any:
    """Import PyAV. Raises PictureError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise PictureError(
            "E307",
            "it needs PyAV, which is not installed: pip install 'owl3-megatron[video]', or "
            "pip install av",
        ) from error
    return av


def _open(av: Any, file: BinaryIO) -> Any:
    """Open a container; text in it that is not UTF-8 is no problem."""
    return av.open(file, options=OPEN_OPTIONS, metadata_errors="replace")


@contextmanager
def _readable(av: Any, file: BinaryIO, code: str, problem: str) -> Iterator[None]:
    """Raise PictureError for what FFmpeg refuses; a failing disk is an OSError as ever."""
    try:
        yield
    except PictureError:
        raise
    except av.FFmpegError as error:
        raise PictureError(code, f"{problem}: {error.strerror}") from error
    except (OSError, ValueError) as error:
        # A place before the start of an empty or short file: EINVAL on disk, ValueError in memory.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise PictureError(code, f"{problem}: it has {file.seek(0, os.SEEK_END)} bytes") from error


def upright_frame(frame: Any, size: tuple[int, int] | None = None) -> Image.Image:
    """Return a decoded frame as its display matrix wants it: phones write 90 degrees.

    Args:
        frame: of PyAV.
        size: width and height to which it is scaled, as players do with a video whose size
            changes; None keeps its own.

    Raises:
        PictureError: E309 its size.
    """
    check_size(frame.width, frame.height)  # it may differ from what the container says
    image: Image.Image = frame.to_image()
    image = image.rotate(frame.rotation, expand=True) if frame.rotation else image
    return image.resize(size, Image.Resampling.BICUBIC) if size not in (None, image.size) else image


class _Video:
    """A video of PyAV."""

    def __init__(self, av: Any, file: BinaryIO, container: Any) -> None:
        self._av, self._file, self._container = av, file, container
        self._video = self._find_stream()
        self._is_indexed = container.format.name in INDEXED
        stamps, self._keys, unit = self._scan_packets() if self._is_indexed else self._scan_frames()
        self._stamps = stamps
        self.times = FrameTimes.of([(stamp - stamps[0]) * unit for stamp in stamps])

    def decode(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        size = None
        with _readable(self._av, self._file, "E308", "a frame cannot be decoded"):
            for frame in self._frames(indices):
                image = upright_frame(frame, size)
                size = image.size
                yield image

    def _find_stream(self) -> Any:
        stream = self._container.streams.best("video")  # not a cover
        if stream is None:
            raise PictureError("E313", "it has no video stream")
        if stream.codec_context is None:
            raise PictureError(
                "E307", "it has a codec that FFmpeg does not know. Convert it to H.264"
            )
        check_size(stream.codec_context.width, stream.codec_context.height)
        # Frame threads dead-lock in worker processes (PyAV-Org/PyAV#1962).
        stream.codec_context.thread_count = 1
        return stream

    # Time stamps.

    def _scan_frames(self) -> tuple[Sequence[int], list[int], float]:
        """Decode all frames: other containers give their packets no times, or times that differ."""
        with _readable(self._av, self._file, "E308", "it is damaged"):
            frames = [(f.pts, f.is_corrupt) for f in self._container.decode(self._video)]
        if any(corrupt for _, corrupt in frames):
            raise PictureError("E308", "it has damaged frames. Copy it again")
        stamps = [stamp for stamp, _ in frames]
        if stamps and None not in stamps and all(a < b for a, b in pairwise(stamps)):
            return stamps, stamps[:1], float(self._video.time_base)
        if not stamps or not self._video.average_rate:
            raise PictureError("E313", "it has no frames with time stamps")
        return range(len(stamps)), [0], float(1 / self._video.average_rate)

    def _scan_packets(self) -> tuple[Sequence[int], list[int], float]:
        """Read the time stamps of all packets, without decoding them."""
        with _readable(self._av, self._file, "E308", "it is damaged"):
            packets = [packet for packet in self._container.demux(self._video) if packet.size]
        # Only some containers, such as mp4, record the number of frames; otherwise it is 0.
        if len(packets) < self._video.frames or any(packet.is_corrupt for packet in packets):
            raise PictureError(
                "E308",
                f"it has {len(packets)} of {self._video.frames} frames, or some are damaged. Copy "
                "it again",
            )
        shown = [packet for packet in packets if not packet.is_discard]
        stamps = [packet.pts for packet in shown]
        keys = [packet.pts for packet in shown if packet.is_keyframe]
        if not stamps or not keys or None in stamps:
            raise PictureError(
                "E313", "it has no frames with time stamps, or no key frame to start at"
            )
        stamps.sort()  # packets are in decoding order
        if any(later == earlier for earlier, later in pairwise(stamps)):
            raise PictureError("E313", "it shows two frames at the same time")
        return stamps, sorted(keys), float(self._video.time_base)

    # Frames.

    def _frames(self, indices: Sequence[int]) -> Iterator[Any]:
        if self._is_indexed:
            return self._sought([self._stamps[index] for index in indices])
        return self._in_turn(indices)

    def _in_turn(self, indices: Sequence[int]) -> Iterator[Any]:
        """Yield frames by their number, decoding from the start."""
        self._file.seek(0)
        with _open(self._av, self._file) as container:
            video = container.streams[self._video.index]
            video.codec_context.thread_count = 1
            wanted = iter(indices)
            index = next(wanted, None)
            for number, frame in enumerate(container.decode(video)):
                if number == index:
                    yield frame
                    index = next(wanted, None)
                if index is None:
                    return
        raise PictureError("E308", f"frame {index} cannot be decoded")

    def _sought(self, targets: Sequence[int]) -> Iterator[Any]:
        """Yield frames by their time stamps, each from the key frame before it."""
        position: int | None = None
        decoded: Iterator[Any] = iter(())
        for target in targets:
            key = self._keys[max(bisect_right(self._keys, target) - 1, 0)]
            if position is None or key > position:  # nearer than decoding from here
                self._container.seek(key, stream=self._video)
                decoded = self._container.decode(self._video)
            frame = next((frame for frame in decoded if frame.pts >= target), None)
            if frame is None or frame.pts != target or frame.is_corrupt:
                seconds = self.times.seconds[self._stamps.index(target)]
                raise PictureError("E308", f"it has no good frame at {seconds:.3f} s")
            position = target
            yield frame
