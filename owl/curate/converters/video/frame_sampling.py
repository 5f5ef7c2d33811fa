# SPDX-License-Identifier: Apache-2.0
"""Choose the frames of a video: by the published rule, or uniformly."""

from dataclasses import dataclass
from enum import StrEnum


class SamplingMode(StrEnum):
    """How frames are chosen."""

    fps = "fps"  # at a rate, then uniformly if these are too many (model card)
    uniform = "uniform"  # a fixed number (paper: 8 in training)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSampling:
    """A rule for choosing frames. The defaults are those of the model card."""

    mode: SamplingMode = SamplingMode.fps
    fps: float = 1.0
    max_frames: int = 16

    def choose(self, frames: int, video_fps: float) -> list[int]:
        """Indices of the frames to show, in order.

        With fps, every round(video_fps / fps)-th frame is a candidate, the first included; with
        uniform, every frame is. Of more than max_frames candidates the middles of max_frames equal
        parts are taken.

        Args:
            frames: how many the video, or the segment of it, has.
            video_fps: its average frames per second.
        """
        every = max(1, round(video_fps / self.fps)) if self.mode is SamplingMode.fps else 1
        candidates = list(range(0, frames, every))
        if len(candidates) <= self.max_frames:
            return candidates
        gap = len(candidates) / self.max_frames
        return [candidates[int(part * gap + gap / 2)] for part in range(self.max_frames)]
