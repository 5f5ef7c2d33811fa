# SPDX-License-Identifier: Apache-2.0
"""ShareGPT4Video and ShareGPTVideo: conversations about a video, or captions of it.

    {"id": "17", "video": "panda/17.mp4", "conversations": [
        {"from": "human", "value": "<video>What happens?"}, {"from": "gpt", "value": "It flies."}]}

    {"video_id": "17", "zip_folder": "panda_videos_1.zip", "captions": [
        {"idx": "0", "content": "..."}, {"idx": "-1", "content": "An owl flies."}]}

Frames are pictures in a folder named like the video, with or without its suffix; for video files,
owl data video-frames reads the same records. The caption of the entire video (idx -1) becomes
the text; the others are kept in meta.raw.
"""

from collections.abc import Mapping
from typing import Any

from owl.curate.converters.fields import required, typed
from owl.curate.converters.formats import llava
from owl.curate.converters.pictures import ClipSource, PictureStore
from owl.curate.converters.records import Draft, MediaList, SourceRecord
from owl.errors import DataError

ENTIRE_VIDEO = "-1"
"""The `idx` of the caption that describes all of the video."""


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one record whose frames are in a folder. Raises DataError."""
    return clip_draft(record, clips=store, store=store)


def clip_draft(record: SourceRecord, *, clips: ClipSource, store: PictureStore) -> Draft:
    """Read one record, with frames from `clips`. Raises DataError."""
    value = typed(record.value, dict, "the record")
    if "conversations" in value:
        return llava.conversation_draft(value, clips, store)
    if "captions" in value:
        return _caption_draft(value, clips)
    raise DataError(
        "E203", f"the record has neither conversations nor captions, but {sorted(value)!r:.120}."
    )


def _caption_draft(value: Mapping[str, Any], clips: ClipSource) -> Draft:
    media = MediaList()
    name = required(value, "video_id", str)
    clips.add_clip(media, name)
    return Draft(
        kind="document",
        turns=[
            {"role": "document", "content": [{"media": 0}, {"text": _video_caption(value)}]},
        ],
        media=media,
        raw=dict(value),  # completely: the text is one of several captions
        id=name or None,
    )


def _video_caption(value: Mapping[str, Any]) -> str:
    captions = required(value, "captions", list)
    for index, caption in enumerate(captions):
        name = f"captions[{index}]"
        if str(required(typed(caption, dict, name), "idx", object, of=name)) == ENTIRE_VIDEO:
            return required(caption, "content", str, of=name)
    raise DataError(
        "E203",
        f"none of the {len(captions)} captions has idx {ENTIRE_VIDEO} (the entire video).",
    )
