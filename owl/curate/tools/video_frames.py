# SPDX-License-Identifier: Apache-2.0
"""Sample the frames of video files, and write them with their texts into shards.

    owl data video-frames --input clips.jsonl --videos videos/ --output shards/
    owl data video-frames --input clips.jsonl --videos videos/ --output shards/ \\
        --sampling uniform --max-frames 8

A line of the input names a video and its text, in one of four ways:

    {"video": "a.mp4", "text": "An owl flies."}
    {"video": "a.mp4", "segments": [{"start": 0, "end": 4.5, "text": "An owl flies."}]}
    {"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>..."}, ...]}
    {"video_id": "a", "captions": [{"idx": "-1", "content": "An owl flies."}]}

Sampling fps (the default, the published rule): every round(video fps / --fps)-th frame; of more
than --max-frames of those, the middles of as many equal parts. Sampling uniform: the middles of
--max-frames equal parts of all frames. Sampling time: what is shown at each 1 / --fps seconds by
the video's own time stamps, for screen recordings and others whose rate varies. Each segment is
sampled separately. Animated GIF, WebP and PNG are videos too. Needs PyAV:
pip install 'owl3-megatron[video]'.

Exit code: 0 every record became a sample; 1 some records were rejected (rejects.jsonl), or shards
remain whose input is gone; 2 the conversion could not start or continue; 130 stopped by Ctrl-C.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from owl.curate.converters.job import ConvertJob
from owl.curate.converters.pictures import SourceFolder
from owl.curate.converters.prompt_endings import WORDING, PromptEnding
from owl.curate.converters.records import ConvertError, ConvertOptions
from owl.curate.converters.shard_series import ShardLimits
from owl.curate.converters.video.video_file import load_av
from owl.curate.converters.video.video_frames import NAME, VideoClips, video_format
from owl.curate.tools.conversion import (
    add_reading,
    add_running,
    field_map,
    run_job,
    running_problem,
)
from owl.portable.media.frames_owl import FrameSampling, SamplingMode


def _parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="owl data video-frames",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_folders(parser)
    _add_choices(parser)
    add_running(parser)
    return parser.parse_args(argv)


def _add_folders(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    group.add_argument("--input", type=Path, required=True, help="json or jsonl, or a folder")
    group.add_argument(
        "--videos", type=Path, required=True, help="folder that names of videos are relative to"
    )
    group.add_argument("--images", type=Path, help="the same for pictures of conversations")
    group.add_argument("--output", type=Path, required=True, help="folder for the shards")
    group.add_argument("--name", help=f"first part of each sample's key (default: {NAME})")


def _add_choices(parser: argparse.ArgumentParser) -> None:
    group, clips = parser.add_argument_group("samples"), FrameSampling()
    group.add_argument(
        "--sampling", type=SamplingMode, choices=list(SamplingMode), default=clips.mode
    )
    group.add_argument("--fps", type=float, default=clips.fps, help="default: 1")
    group.add_argument(
        "--max-frames", type=int, default=clips.max_frames, help="of a video or segment (16)"
    )
    group.add_argument(
        "--short-side", type=int, default=448, help="pixels; larger frames are shrunk (448)"
    )
    group.add_argument("--quality", type=int, default=90, help="of the JPEG frames (90)")
    group.add_argument(
        "--prompt-ending",
        type=PromptEnding,
        choices=list(WORDING),
        help="end every question with the mPLUG-Owl family's wording",
    )
    group.add_argument(
        "--escape", action="store_true", help="keep text that looks like markup as plain text"
    )
    add_reading(group)


def _make_job(arguments: argparse.Namespace) -> ConvertJob:
    clips = VideoClips(
        folder=SourceFolder(arguments.videos, arguments.follow_links),
        sampling=FrameSampling(
            mode=arguments.sampling, fps=arguments.fps, max_frames=arguments.max_frames
        ),
        short_side=arguments.short_side,
        quality=arguments.quality,
    )
    return ConvertJob(
        format=video_format(clips),
        input=arguments.input,
        images=arguments.images,
        output=arguments.output,
        name=arguments.name or NAME,
        options=ConvertOptions(
            prompt_ending=arguments.prompt_ending,
            escape=arguments.escape,
            field_map=field_map(arguments.field_map),
            ignore_fields=tuple(arguments.ignore_fields),
            media_first=arguments.media_first,
            follow_links=arguments.follow_links,
        ),
        limits=ShardLimits(arguments.shard_samples, arguments.shard_bytes),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion of the command line; return the exit code."""
    arguments = _parse_arguments(argv)
    problem = running_problem(arguments) or _find_problem(arguments)
    if problem:
        print(f"video_frames: {problem}", file=sys.stderr)
        return 2
    return run_job(
        _make_job(arguments),
        arguments.workers,
        retry_rejects=arguments.retry_rejects,
        tool="video_frames",
    )


def _find_problem(arguments: argparse.Namespace) -> str | None:
    if not arguments.videos.is_dir():
        return f"--videos {arguments.videos} is not a folder."
    if not 0 < arguments.fps < math.inf:
        return f"--fps {arguments.fps}: use a number above 0."
    if arguments.max_frames < 1 or arguments.short_side < 4:
        return "--max-frames must be at least 1 and --short-side at least 4."
    if not 1 <= arguments.quality <= 100:
        return f"--quality {arguments.quality}: use 1 to 100."
    try:
        load_av()
    except ConvertError as error:
        return str(error)
    return None
