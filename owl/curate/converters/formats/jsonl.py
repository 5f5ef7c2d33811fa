# SPDX-License-Identifier: Apache-2.0
"""Your own data, in one of three layouts that are distinguished by their fields.

Messages, whose content is a text with a mark for each picture, or a list of parts:

    {"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image>What is it?"},
                                       {"role": "assistant", "content": "An owl."}]}
    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.jpg"},
                                               {"type": "text", "text": "What is it?"}]}, ...]}

Question and answer; the pictures come first. With --turns-of FIELD, consecutive lines that agree in
that field (and in their pictures) are the turns of one conversation:

    {"image": "a.jpg", "question": "What is it?", "answer": "An owl."}

Text with marks, all of which is learned:

    {"images": ["a.jpg"], "text": "An owl: <image>"}
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from owl.curate.converters.fields import leftovers, required, typed
from owl.curate.converters.formats.llava import media_names
from owl.curate.converters.formats.placeholders import IMAGE, Placeholders
from owl.curate.converters.pictures import PictureStore
from owl.curate.converters.records import Draft, MediaList, SourceRecord
from owl.errors import DataError

ROLES = ("system", "user", "assistant")


def to_draft(record: SourceRecord, store: PictureStore) -> Draft:
    """Read a record of any layout. Raises DataError."""
    if isinstance(record.value, list):
        return _question_draft([typed(value, dict, "the record") for value in record.value], store)
    value = typed(record.value, dict, "the record")
    layouts = [name for name in ("messages", "question", "text") if name in value]
    if len(layouts) != 1:
        raise DataError(
            "E203",
            "the record needs exactly one of messages, question (with answer) and text, but has "
            f"{sorted(value)!r:.120}.",
        )
    if layouts == ["messages"]:
        return _message_draft(value, store)
    return _question_draft([value], store) if layouts == ["question"] else _text_draft(value, store)


# Messages.


def _message_draft(value: Mapping[str, Any], store: PictureStore) -> Draft:
    media = MediaList()
    names = media_names(value, "images")
    for name in names:
        store.add(media, name)
    placeholders = Placeholders({IMAGE: len(names)})
    turns, extras = [], []
    for index, item in enumerate(required(value, "messages", list)):
        path = f"messages[{index}]"
        message = typed(item, dict, path)
        content = required(message, "content", object, of=path)
        if isinstance(content, str):
            parts = placeholders.split(content)
        else:
            parts = list(_parts(typed(content, list, f"{path}.content"), path, media, store))
        turns.append({"role": _role(message, path), "content": parts})
        extras.append(leftovers(message, {"role", "content"}))
    placeholders.check_all_shown()
    return Draft(
        kind="chat",
        turns=turns,
        media=media,
        raw=leftovers(value, {"messages", "images"})
        | ({"messages": extras} if any(extras) else {}),
        prompt_ending=store.options.prompt_ending,
    )


def _parts(
    parts: Sequence[Any], path: str, media: MediaList, store: PictureStore
) -> Iterator[dict[str, Any]]:
    """Read content given as {"type": "text"} and {"type": "image"} parts."""
    for index, item in enumerate(parts):
        name = f"{path}.content[{index}]"
        part = typed(item, dict, name)
        kind = required(part, "type", str, of=name)
        if kind not in ("text", "image") or part.keys() != {"type", kind}:
            raise DataError(
                "E203",
                f'{name}={part!r:.80}: write {{"type": "text", "text": ...}} or '
                '{"type": "image", "image": PATH}.',
            )
        value = required(part, kind, str, of=name)
        yield {"text": value} if kind == "text" else {"media": store.add(media, value)}


# Questions and answers.


def _question_draft(values: Sequence[Mapping[str, Any]], store: PictureStore) -> Draft:
    first = values[0]
    media = MediaList()
    for name in media_names(first, "image"):
        store.add(media, name)
    turns: list[dict[str, Any]] = []
    for value in values:
        if value.get("image") != first.get("image"):
            raise DataError(
                "E305",
                f"turns of one conversation name different pictures: {first.get('image')!r:.80} "
                f"and {value.get('image')!r:.80}.",
            )
        for role, field in (("user", "question"), ("assistant", "answer")):
            turns.append({"role": role, "content": [{"text": required(value, field, str)}]})
    shown = [{"media": index} for index in range(len(media.entries))]
    turns[0]["content"] = shown + turns[0]["content"]
    return Draft(
        kind="chat",
        turns=turns,
        media=media,
        raw={"turns": [leftovers(value, {"question", "answer"}) for value in values]},
        prompt_ending=store.options.prompt_ending,
    )


# Text.


def _text_draft(value: Mapping[str, Any], store: PictureStore) -> Draft:
    media = MediaList()
    names = media_names(value, "images")
    for name in names:
        store.add(media, name)
    placeholders = Placeholders({IMAGE: len(names)})
    content = placeholders.split(required(value, "text", str))
    placeholders.check_all_shown()
    return Draft(
        kind="document",
        turns=[{"role": "document", "content": content}],
        media=media,
        raw=leftovers(value, {"text", "images"}),
    )


def _role(message: Mapping[str, Any], path: str) -> str:
    role = required(message, "role", str, of=path)
    if role not in ROLES:
        raise DataError("E203", f"{path}.role={role!r}: use one of {list(ROLES)}.")
    return role
