# SPDX-License-Identifier: Apache-2.0
"""When the frames of a video are shown, and which of them a model sees.

Conversion for training and owl.hf share this module; a copy of it travels with exported folders.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

DEFAULT_MAX_FRAMES = 16  # of the model cards
ROUNDED = 0.5
"""Seconds by which a segment may end behind its video: annotations are rounded to seconds."""


class SamplingMode(StrEnum):
    """How frames are chosen."""

    fps = "fps"  # every so many frames, then uniformly if these are too many (model card)
    uniform = "uniform"  # a fixed number (paper: 8 in training)
    time = "time"  # what is on the screen at equal times: for videos of a variable rate


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """When each frame of a video appears, by its own time stamps."""

    seconds: Sequence[float]  # from the first frame, increasing
    duration: float  # seconds until the last frame ends

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "FrameTimes":
        """Take the last frame to last as long as the others on average."""
        count = len(seconds)
        return cls(seconds, seconds[-1] * count / (count - 1) if count > 1 else 0.0)

    @property
    def fps(self) -> float:
        """Average frames per second; 1 for a single frame of unknown length."""
        return len(self.seconds) / self.duration if self.duration else 1.0

    def between(self, start: float, end: float) -> range:
        """Return the indices of the frames at start <= seconds < end.

        Raises:
            ValueError: there are none, or the video ends before `end`.
        """
        within = range(bisect_left(self.seconds, start), bisect_left(self.seconds, end))
        if not within:
            raise ValueError(
                f"it has no frame at {start} <= seconds < {end}; it lasts {self.duration:.3f} s"
            )
        if end != float("inf") and end > self.duration + ROUNDED:
            raise ValueError(
                f"it lasts {self.duration:.3f} s, but a segment goes from {start} to {end}: that "
                f"is more than {ROUNDED} s beyond its end. Correct the segment"
            )
        return within


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSampling:
    """A rule for choosing frames. The defaults are those of the model card."""

    mode: SamplingMode = SamplingMode.fps
    fps: float = 1.0
    max_frames: int = DEFAULT_MAX_FRAMES

    def choose(self, seconds: Sequence[float], video_fps: float) -> list[int]:
        """Indices of the frames to show, in order.

        With fps, every round(video_fps / fps)-th frame is a candidate, the first included; with
        uniform, every frame is; with time, the frame that is shown at each 1 / fps seconds. Of
        more than max_frames candidates the middles of max_frames equal parts are taken.

        Args:
            seconds: times of the frames of the video, or of a segment of it, increasing.
            video_fps: average frames per second of the video.
        """
        if self.mode is SamplingMode.time:
            candidates = self._shown_at_equal_times(seconds)
        else:
            every = max(1, round(video_fps / self.fps)) if self.mode is SamplingMode.fps else 1
            candidates = list(range(0, len(seconds), every))
        return [candidates[index] for index in spread(len(candidates), self.max_frames)]

    def _shown_at_equal_times(self, seconds: Sequence[float]) -> list[int]:
        ticks = int((seconds[-1] - seconds[0]) * self.fps + 1e-6) + 1 if seconds else 0
        # A tenth of a millisecond: stamps are rounded to the ticks of their container.
        shown = [
            bisect_right(seconds, seconds[0] + tick / self.fps + 1e-4) - 1 for tick in range(ticks)
        ]
        return sorted(set(shown))


def spread(count: int, most: int) -> list[int]:
    """Choose frames: all of them, or the middles of `most` equal parts (published)."""
    if count <= most:
        return list(range(count))
    gap = count / most
    return [int(part * gap + gap / 2) for part in range(most)]
