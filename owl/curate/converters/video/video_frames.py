# SPDX-License-Identifier: Apache-2.0
"""Convert records about video files: the format of `owl data video-frames`.

Any layout of layouts.py (chats, questions and answers, captions), captions as in sharegpt4video.py,
and

    {"video": "a.mp4", "text": "An owl flies."}
    {"video": "a.mp4", "segments": [{"start": 0, "end": 4.5, "text": "An owl flies."}, ...]}

which become documents: all frames, then the text; or the frames of each segment, then its text.
Seconds count from the first frame; a segment holds the frames at start <= seconds < end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from owl.curate.converters.fields import leftovers, number, required, typed
from owl.curate.converters.formats import sharegpt4video
from owl.curate.converters.formats.layouts import read_record
from owl.curate.converters.formats.media_fields import check_all_read
from owl.curate.converters.formats.registry import SourceFormat
from owl.curate.converters.pictures import EVERYTHING, PictureStore, SourceFolder, Span
from owl.curate.converters.records import Draft, MediaList, SourceRecord
from owl.curate.converters.sources.json_source import JsonSource
from owl.curate.converters.video.video_file import open_video_file, store_frame
from owl.data.encode.images import picture_size
from owl.errors import DataError
from owl.portable.media.fetch_owl import local_path
from owl.portable.media.frames_owl import FrameSampling
from owl.portable.media.video_owl import Clip

NAME = "video_frames"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoClips:
    """Reads videos under one folder and samples their frames."""

    folder: SourceFolder
    sampling: FrameSampling = field(default_factory=FrameSampling)
    short_side: int = 448
    """Larger frames are shrunk to this, in pixels; a tile has 378 or 384."""
    quality: int = 90

    def add_clip(self, media: MediaList, name: str, span: Span = EVERYTHING) -> int:
        """Append a video, or the seconds [start, end) of it, to the media; return its index."""
        index, _ = self.add_spans(media, name, [span])
        return index

    def add_spans(
        self, media: MediaList, name: str, spans: Sequence[Span]
    ) -> tuple[int, list[list[int]]]:
        """Append the frames of some spans of a video.

        Args:
            media: of the sample.
            name: of the video, under the folder.
            spans: (start, end) in seconds, in order and without overlap.

        Returns:
            The index of the clip, and for each span the [first, end) of its frames in the clip.

        Raises:
            DataError: E302, E307, E308, E309, E313.
        """
        path = self._find(name)
        found = path.stat()
        media.sources[str(path)] = (found.st_size, found.st_mtime_ns)
        with open_video_file(path) as video:
            chosen = [self._choose(video, span, name) for span in spans]
            indices = [index for part in chosen for index in part]
            frames = [
                store_frame(image, short_side=self.short_side, quality=self.quality)
                for image in video.decode(indices)
            ]
            times = [video.times.seconds[index] for index in indices]
            duration = video.times.duration
        width, height = picture_size(frames[0])
        clip = media.add_clip(
            [(frame, "jpg") for frame in frames],
            t=[round(seconds, 6) for seconds in times],
            w=width,
            h=height,
            duration=round(duration, 6),
            of=name,
        )
        return clip, _ranges([len(part) for part in chosen])

    def _find(self, name: str) -> Path:
        name = local_path(name)
        for place in (name, f"{name}.mp4"):  # ShareGPT4Video names some only by their id
            path = self.folder.locate(place)
            if path.is_file():
                return path
        raise DataError("E302", f"{name!r:.200} is not a file under {self.folder.root}.")

    def _choose(self, video: Clip, span: Span, name: str) -> list[int]:
        try:
            within = video.times.between(*span)
        except ValueError as error:
            raise DataError("E313", f"{name!r}: {error}.") from error
        seconds = video.times.seconds[within.start : within.stop]
        return [within[index] for index in self.sampling.choose(seconds, video.times.fps)]


def video_format(clips: VideoClips) -> SourceFormat:
    """Describe the conversion of video files for one folder and one sampling rule."""
    return SourceFormat(
        NAME,
        JsonSource(),
        partial(to_draft, clips=clips),
        settings={
            "videos": str(clips.folder.root.resolve()),
            "sampling": clips.sampling.mode.value,
            "fps": clips.sampling.fps,
            "max_frames": clips.sampling.max_frames,
            "short_side": clips.short_side,
            "quality": clips.quality,
        },
    )


def to_draft(record: SourceRecord, store: PictureStore, *, clips: VideoClips) -> Draft:
    """Read one record about a video file. Raises DataError."""
    value = typed(record.value, dict, "the record")
    if "segments" in value:
        draft = _segment_draft(value, clips)
        unread = leftovers(value, {"video", "segments"})
        check_all_read(unread, has_media=True, ignored=store.options.ignore_fields)
        return draft
    if "captions" in value:
        return sharegpt4video.clip_draft(record, clips=clips, store=store)
    draft = read_record(record, store, clips)
    draft.id = value["id"] if isinstance(value.get("id"), str) and value["id"] else None
    return draft


def _segment_draft(value: Mapping[str, Any], clips: VideoClips) -> Draft:
    media = MediaList()
    segments = required(value, "segments", list)
    spans = [_span(segment, f"segments[{index}]") for index, segment in enumerate(segments)]
    _check_apart(spans)
    clip, ranges = clips.add_spans(media, required(value, "video", str), spans)
    content: list[dict[str, Any]] = []
    for index, (segment, frames) in enumerate(zip(segments, ranges, strict=True)):
        text = required(segment, "text", str, of=f"segments[{index}]")
        content += [{"media": clip, "frames": frames}, {"text": text}]
    return Draft(
        kind="document",
        turns=[{"role": "document", "content": content}],
        media=media,
        raw=leftovers(value, {"video", "segments"})
        | {"segments": [leftovers(segment, {"text"}) for segment in segments]},
    )


def _span(segment: object, name: str) -> Span:
    fields = typed(segment, dict, name)
    start = number(required(fields, "start", object, of=name), f"{name}.start")
    end = number(required(fields, "end", object, of=name), f"{name}.end")
    if not 0 <= start < end:
        raise DataError("E203", f"{name} goes from {start} to {end}; 0 <= start < end is needed.")
    return start, end


def _check_apart(spans: Sequence[Span]) -> None:
    if not spans:
        raise DataError("E203", "segments is empty.")
    for index, (earlier, later) in enumerate(pairwise(spans)):
        if later[0] < earlier[1]:
            raise DataError(
                "E312",
                f"segments[{index + 1}] starts at {later[0]}, before segments[{index}] ends at "
                f"{earlier[1]}. Make them follow each other, or write one record for each.",
            )


def _ranges(counts: Sequence[int]) -> list[list[int]]:
    """[first, end) of consecutive parts of these lengths."""
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    return [[end - count, end] for count, end in zip(counts, ends, strict=True)]
