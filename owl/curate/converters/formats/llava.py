# SPDX-License-Identifier: Apache-2.0
"""LLaVA instruction data. M4 and ShareGPT4Video have the same turns and use this module.

    {"id": "17", "image": "coco/17.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "An owl."}]}

`image` is a string, a list, null or absent (text only). The text has a mark for each picture.
"""

from collections.abc import Mapping
from typing import Any

from owl.curate.converters.fields import leftovers, required, string_list, typed
from owl.curate.converters.formats.placeholders import (
    IMAGE,
    VIDEO,
    Placeholders,
)
from owl.curate.converters.pictures import ClipSource, PictureStore
from owl.curate.converters.records import Draft, MediaList, SourceRecord
from owl.errors import DataError

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one conversation about pictures. Raises DataError."""
    value = typed(record.value, dict, "the record")
    names = media_names(value, "image")
    media = MediaList()
    for name in names:
        store.add(media, name)
    return conversation_draft(value, media, {"image": IMAGE}, store)


def media_names(value: Mapping[str, Any], field: str) -> list[str]:
    """Return the names in a field: a string, a list of strings, null or absent. Raises E203."""
    found = value.get(field)
    if found is None:
        return []
    return [found] if isinstance(found, str) else string_list(found, field)


def video_draft(value: Mapping[str, Any], clips: ClipSource, store: PictureStore) -> Draft:
    """Read one conversation about videos, and pictures if there are any. Raises DataError."""
    media = MediaList()
    for name in media_names(value, "image"):
        store.add(media, name)
    for name in media_names(value, "video"):
        clips.add_clip(media, name)
    return conversation_draft(value, media, {"image": IMAGE, "video": VIDEO}, store)


def conversation_draft(
    value: Mapping[str, Any],
    media: MediaList,
    marks: Mapping[str, str],
    store: PictureStore,
) -> Draft:
    """Read `conversations`, whose text has marks for the media.

    Args:
        value: the record.
        media: of the record, field by field in the order of `marks`.
        marks: field that names media -> the mark that stands for each of them in the text.
        store: has the options.

    Raises:
        DataError: E203 a wrong type or speaker, E305 marks and media do not match.
    """
    turns = typed(required(value, "conversations", list), list, "conversations")
    placeholders = Placeholders(
        {mark: len(media_names(value, field)) for field, mark in marks.items()}
    )
    draft = Draft(
        kind="chat",
        turns=[],
        media=media,
        raw=leftovers(value, {"conversations", *marks}),
        prompt_ending=store.options.prompt_ending,
        id=value["id"] if isinstance(value.get("id"), str) and value["id"] else None,
    )
    for index, turn in enumerate(turns):
        name = f"conversations[{index}]"
        turn = typed(turn, dict, name)
        text = required(turn, "value", str, of=name)
        content = placeholders.split(text)
        draft.turns.append({"role": _role(turn, name), "content": content})
    placeholders.check_all_shown()
    extras = [leftovers(turn, {"from", "value"}) for turn in turns]
    if any(extras):
        draft.raw["conversations"] = extras
    return draft


def _role(turn: Mapping[str, Any], name: str) -> str:
    speaker = required(turn, "from", str, of=name)
    if speaker not in ROLES:
        raise DataError("E203", f"{name}.from={speaker!r}: use one of {sorted(ROLES)}.")
    return ROLES[speaker]
