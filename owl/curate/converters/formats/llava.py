# SPDX-License-Identifier: Apache-2.0
"""LLaVA instruction data, and what has the same turns: M4 and ShareGPT4Video build on this.

    {"id": "17", "image": "coco/17.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "An owl."}]}

`image` is a string, a list, null or absent (text only). A mark for each picture stands in the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from owl.curate.converters.fields import leftovers, required, string_list, typed
from owl.curate.converters.formats.placeholders import (
    IMAGE,
    VIDEO,
    check_all_shown,
    join_text,
    split_text,
)
from owl.curate.converters.pictures import ClipSource, PictureStore
from owl.curate.converters.records import Draft, MediaList, OpenedSample, SourceRecord
from owl.errors import DataError

FAMILY = "llava"

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"} | {
    "system": "system"
}
SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
"""How LLaVA itself calls them."""


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read one conversation about pictures. Raises DataError."""
    value = typed(record.value, dict, "the record")
    names = media_names(value, "image")
    media = MediaList()
    for name in names:
        store.add(media, name)
    return conversation_draft(value, media, {"image": IMAGE}, store)


def to_source(sample: OpenedSample) -> dict[str, Any]:
    """Give the record back."""
    return conversation_source(sample, {"image": IMAGE})


def media_names(value: Mapping[str, Any], field: str) -> list[str]:
    """Names in a field that is a string, a list of strings, null or absent. Raises E203."""
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
    """Read `conversations`, whose text shows the media by marks.

    Args:
        value: the record.
        media: its media, those of each field together, in the order of `marks`.
        marks: field that names media -> the mark that stands for each of them in the text.
        store: for the options.

    Raises:
        DataError: E203 a wrong type or speaker, E305 marks and media do not match.
    """
    turns = typed(required(value, "conversations", list), list, "conversations")
    counts = {mark: len(media_names(value, field)) for field, mark in marks.items()}
    left = _indices_by_mark(counts)
    form: dict[str, Any] = {}
    draft = Draft(
        kind="chat",
        turns=[],
        media=media,
        raw=leftovers(value, {"conversations", *marks}),
        form=form,
        prompt_ending=store.options.prompt_ending,
        id=value["id"] if isinstance(value.get("id"), str) and value["id"] else None,
    )
    for index, turn in enumerate(turns):
        name = f"conversations[{index}]"
        turn = typed(turn, dict, name)
        text = required(turn, "value", str, of=name)
        content = split_text(text, left, counts=counts)
        draft.turns.append({"role": _role(turn, name), "content": content})
    check_all_shown(left, counts=counts)
    form |= _turn_form(turns) | _media_form(value, marks)
    return draft


def conversation_source(sample: OpenedSample, marks: Mapping[str, str]) -> dict[str, Any]:
    """Undo conversation_draft."""
    value = dict(sample.raw)
    by_field = _names_by_field(sample, marks)
    for field, names in by_field.items():
        form = sample.form.get(field, "absent")
        if form != "absent":
            value[field] = {"string": names[:1] and names[0], "list": names, "null": None}[form]
    mark_of = _mark_of_index(by_field, marks)
    speakers = sample.form.get("speakers", [SPEAKERS[turn["role"]] for turn in sample.turns])
    extras = sample.form.get("turns", [{}] * len(sample.turns))
    value["conversations"] = [
        {"from": speaker, "value": join_text(turn["content"], mark_of)} | extra
        for turn, speaker, extra in zip(sample.turns, speakers, extras, strict=True)
    ]
    return value


def _indices_by_mark(counts: Mapping[str, int]) -> dict[str, Any]:
    """Mark -> iterator over the indices of its media, which lie one field after the other."""
    iterators, start = {}, 0
    for mark, count in counts.items():
        iterators[mark] = iter(range(start, start + count))
        start += count
    return iterators


def _role(turn: Mapping[str, Any], name: str) -> str:
    speaker = required(turn, "from", str, of=name)
    if speaker not in ROLES:
        raise DataError("E203", f"{name}.from={speaker!r}: use one of {sorted(ROLES)}.")
    return ROLES[speaker]


def _turn_form(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is unusual about the turns: speakers under other names, further fields."""
    form: dict[str, Any] = {}
    speakers = [turn["from"] for turn in turns]
    if any(SPEAKERS[ROLES[speaker]] != speaker for speaker in speakers):
        form["speakers"] = speakers
    extras = [leftovers(turn, {"from", "value"}) for turn in turns]
    if any(extras):
        form["turns"] = extras
    return form


def _media_form(value: Mapping[str, Any], marks: Mapping[str, str]) -> dict[str, str]:
    """How each media field was spelled."""
    spelled = {str: "string", list: "list", type(None): "null"}
    return {field: spelled[type(value[field])] for field in marks if field in value}


def _names_by_field(sample: OpenedSample, marks: Mapping[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {field: [] for field in marks}
    for entry in sample.media:
        field, name = ("image", "uri") if entry["type"] == "image" else ("video", "of")
        names[field].append(entry[name])
    return names


def _mark_of_index(
    by_field: Mapping[str, Sequence[str]], marks: Mapping[str, str]
) -> dict[int, str]:
    in_order = [marks[field] for field, names in by_field.items() for _ in names]
    return dict(enumerate(in_order))
