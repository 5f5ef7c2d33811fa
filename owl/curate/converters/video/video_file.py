# SPDX-License-Identifier: Apache-2.0
"""Decode frames of video files with PyAV, which is imported only when a video is read."""

import errno
import io
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from owl.curate.converters.records import ConvertError
from owl.data.encode.images import check_size
from owl.errors import DataError
from owl.portable.video_owl import INDEXED, open_video, upright_frame


@dataclass(frozen=True, slots=True)
class VideoFrames:
    """Times of the frames of a video, known before any is decoded."""

    stamps: Sequence[int]  # presentation time stamps, increasing
    keys: Sequence[int]  # of the frames that can be decoded without another
    seconds_per_stamp: float

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last, as if all were equally long."""
        if len(self.stamps) < 2:
            return 0.0
        span = self.seconds(self.stamps[-1])
        return span * len(self.stamps) / (len(self.stamps) - 1)

    @property
    def fps(self) -> float:
        """Average frames per second; 1 for a single frame."""
        return len(self.stamps) / self.duration if self.duration else 1.0

    def seconds(self, stamp: int) -> float:
        """Time of a stamp, counted from the first frame."""
        return (stamp - self.stamps[0]) * self.seconds_per_stamp

    def between(self, start: float, end: float) -> range:
        """Return the indices of the frames at start <= seconds < end."""
        times = [self.seconds(stamp) for stamp in self.stamps]
        return range(bisect_left(times, start), bisect_left(times, end))


class VideoFile:
    """An open video; use it as a context manager.

    Raises:
        DataError: E307 not a video in a known container, E309 an impossible size, E313 unusable
            time stamps.
        ConvertError: PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._av = load_av()
        self._path = path

    def __enter__(self) -> "VideoFile":
        self._stream_file = self._path.open("rb")
        try:
            with self._readable("E307", "is not a video in a known container"):
                self._container = open_video(self._av, self._stream_file)
        except BaseException:
            self._stream_file.close()
            raise
        try:
            self._video = self._find_stream()
            self.frames = self._scan()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()
        self._stream_file.close()

    def decode(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Yield the frames of increasing indices, turned upright.

        Raises:
            DataError: E308 a frame cannot be decoded.
        """
        with self._readable("E308", "cannot be decoded"):
            if self._container.format.name in INDEXED:
                yield from self._decode([self.frames.stamps[index] for index in indices])
            else:
                yield from self._decode_in_turn(indices)

    @contextmanager
    def _readable(self, code: str, problem: str) -> Iterator[None]:
        """Raise DataError for what FFmpeg refuses; a failing disk is an OSError as ever."""
        try:
            yield
        except self._av.FFmpegError as error:
            raise DataError(code, f"{self._path.name!r} {problem}: {error}.") from error
        except OSError as error:
            if error.errno != errno.EINVAL:  # a place before the start of an empty or short file
                raise
            size = os.fstat(self._stream_file.fileno()).st_size
            raise DataError(code, f"{self._path.name!r} {problem}: it has {size} bytes.") from error

    def _find_stream(self) -> Any:
        if not self._container.streams.video:
            raise DataError("E313", f"{self._path.name!r} has no video stream.")
        stream = self._container.streams.video[0]
        if stream.codec_context is None:
            raise DataError(
                "E307",
                f"{self._path.name!r} has a codec that FFmpeg does not know. Convert it to H.264.",
            )
        check_size(stream.codec_context.width, stream.codec_context.height)
        # Frame threads dead-lock in worker processes (PyAV-Org/PyAV#1962).
        stream.codec_context.thread_count = 1
        return stream

    def _scan(self) -> VideoFrames:
        """Find the time of every frame."""
        if self._container.format.name in INDEXED:
            return self._scan_packets()
        return self._scan_frames()

    def _scan_frames(self) -> VideoFrames:
        """Decode all frames: other containers give their packets no times, or times that differ."""
        with self._readable("E308", "is damaged"):
            frames = [(f.pts, f.is_corrupt) for f in self._container.decode(self._video)]
        if any(corrupt for _, corrupt in frames):
            raise DataError("E308", f"{self._path.name!r} has damaged frames. Copy it again.")
        stamps = [stamp for stamp, _ in frames]
        if None not in stamps and all(a < b for a, b in pairwise(stamps)) and stamps:
            return VideoFrames(stamps, stamps[:1], float(self._video.time_base))
        if not stamps or not self._video.average_rate:
            raise DataError("E313", f"{self._path.name!r} has no frames with time stamps.")
        return VideoFrames(range(len(stamps)), [0], float(1 / self._video.average_rate))

    def _decode_in_turn(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Yield frames by their number, decoding from the start."""
        self._stream_file.seek(0)
        with open_video(self._av, self._stream_file) as container:
            video = container.streams.video[0]
            video.codec_context.thread_count = 1
            wanted = iter(indices)
            index = next(wanted, None)
            for number, frame in enumerate(container.decode(video)):
                if number == index:
                    yield upright_frame(frame)
                    index = next(wanted, None)
                if index is None:
                    return
        raise DataError("E308", f"{self._path.name!r}: frame {index} cannot be decoded.")

    def _scan_packets(self) -> VideoFrames:
        """Read the time stamps of all packets, without decoding them."""
        with self._readable("E308", "is damaged"):
            packets = [packet for packet in self._container.demux(self._video) if packet.size]
        # Only some containers, such as mp4, record the number of frames; otherwise it is 0.
        if len(packets) < self._video.frames or any(packet.is_corrupt for packet in packets):
            raise DataError(
                "E308",
                f"{self._path.name!r} has {len(packets)} of {self._video.frames} frames, or some "
                "are damaged. Copy it again.",
            )
        shown = [packet for packet in packets if not packet.is_discard]
        stamps = [packet.pts for packet in shown]
        keys = [packet.pts for packet in shown if packet.is_keyframe]
        return VideoFrames(*self._in_order(stamps, keys), float(self._video.time_base))

    def _in_order(self, stamps: list[Any], keys: list[Any]) -> tuple[list[int], list[int]]:
        """Sort stamps, which are in decoding order. Raises E313 if they cannot be sorted."""
        if not stamps or not keys or None in stamps:
            raise DataError(
                "E313",
                f"{self._path.name!r} has no frames with time stamps, or no key frame to start at.",
            )
        stamps.sort()
        if any(later == earlier for earlier, later in pairwise(stamps)):
            raise DataError("E313", f"{self._path.name!r} shows two frames at the same time.")
        return stamps, sorted(keys)

    def _decode(self, targets: Sequence[int]) -> Iterator[Image.Image]:
        position: int | None = None
        decoded: Iterator[Any] = iter(())
        for target in targets:
            key = self._key_before(target)
            if position is None or key > position:  # nearer than decoding from here
                self._container.seek(key, stream=self._video)
                decoded = self._container.decode(self._video)
            frame = next((frame for frame in decoded if frame.pts >= target), None)
            if frame is None or frame.pts != target or frame.is_corrupt:
                seconds = self.frames.seconds(target)
                raise DataError("E308", f"{self._path.name!r}: no good frame at {seconds:.3f} s.")
            position = target
            yield upright_frame(frame)

    def _key_before(self, target: int) -> int:
        return self.frames.keys[max(bisect_right(self.frames.keys, target) - 1, 0)]


def store_frame(image: Image.Image, *, short_side: int, quality: int) -> bytes:
    """Encode a frame as JPEG, shrunk if its short side is above short_side pixels."""
    scale = short_side / min(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def load_av() -> ModuleType:
    """Import PyAV. Raises ConvertError if it is not installed."""
    try:
        return import_module("av")
    except ImportError as error:
        raise ConvertError(
            "videos are read with PyAV, which is not installed. Run "
            "`pip install 'owl3-megatron[video]'`, or `pip install av`."
        ) from error
