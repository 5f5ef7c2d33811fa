# SPDX-License-Identifier: Apache-2.0
"""Records of Hugging Face tables and of one's own json: which layout one has, and its sample.

A layout is chosen by the fields that are there, never by their contents. Where none or several fit,
the record is rejected, and the message says how to name a field (--map) or to ignore one.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from owl.curate.converters.fields import leftovers, required, typed
from owl.curate.converters.formats.media_fields import listed
from owl.curate.converters.formats.turns import RecordReader
from owl.curate.converters.pictures import ClipSource, PictureStore
from owl.curate.converters.records import Draft, SourceRecord
from owl.errors import DataError

Row = dict[str, Any]

END_OF_PAGE = re.compile(r"\s*END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED\s*")
"""OBELICS' own mark between two pages, which is no text of theirs: a paragraph ends there."""


def read_record(record: SourceRecord, store: PictureStore, clips: ClipSource) -> Draft:
    """Read a record of any layout.

    Args:
        record: an object, or several that are turns of one conversation (--turns-of).
        store: of its pictures; has the options.
        clips: of its videos.

    Raises:
        DataError: E203 no layout or several, E305 media that would not be shown.
    """
    given = record.value if isinstance(record.value, tuple) else (record.value,)
    rows = [_renamed(typed(row, dict, "the record"), store.options.field_map) for row in given]
    layout = find_layout(rows[0], ignored=store.options.ignore_fields)
    if len(rows) > 1 and layout.read is not _pair_draft:
        raise DataError("E203", f"--turns-of joins questions, but the layout is {layout.name}.")
    draft = layout.read(rows, RecordReader(store, clips), layout)
    draft.layout = layout.name
    return draft


def find_layout(row: Row, *, ignored: Sequence[str] = ()) -> "Layout":
    """Return the only layout whose fields a record has. Raises DataError E203."""
    there = {name for name, value in row.items() if value is not None and name not in ignored}
    found = [layout for layout in LAYOUTS if layout.needs <= there]
    if len(found) == 1:
        return found[0]
    names = [layout.name for layout in found or LAYOUTS]
    problem = "fits several layouts" if found else "has the fields of no layout"
    way_on = "--ignore-field FIELD leaves one out" if found else "--map NAME=FIELD renames a field"
    raise DataError(
        "E203",
        f"the record {problem}; it needs exactly one of {', '.join(names)}, but has "
        f"{sorted(row)!r:.160}. {way_on}.",
    )


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    """Give fields the names of `--map NAME=FIELD`."""
    new = {field: name for name, field in names.items() if field in row}
    for field, name in new.items():
        if name in row and name not in new:
            raise DataError("E203", f"--map {name}={field}: the record has a field {name} too.")
    return {new.get(field, field): value for field, value in row.items()}


# Chats.


def _message_draft(rows: Sequence[Row], reader: RecordReader, layout: "Layout") -> Draft:
    (row,) = rows
    (name,) = layout.needs
    return chat_draft(row, name, reader)


def chat_draft(row: Row, name: str, reader: RecordReader) -> Draft:
    """Read a record whose field `name` is a list of messages. Raises DataError."""
    messages = required(row, name, list)
    reader.read_media(row)
    turns, extras = reader.read_messages(messages, name)
    if isinstance(row.get("system"), str):  # ms-swift and LLaMA-Factory write it beside the list
        turns.insert(0, {"role": "system", "content": [{"text": row["system"]}]})
        reader.used.add("system")
    raw = _rest(row, {name}, reader)
    return _chat(reader, turns, raw | ({name: extras} if any(extras) else {}))


def _rest(row: Row, used: Collection[str], reader: RecordReader) -> Row:
    """Return what the sample does not hold of a record. Raises DataError E305 for unread media."""
    rest = leftovers(row, {*used, *reader.used})
    reader.check_all_read(rest)
    return rest | picture_details(row, reader.used)


def _pair_draft(rows: Sequence[Row], reader: RecordReader, layout: "Layout") -> Draft:
    """Read questions and answers: alone, with earlier ones in `history`, or one a line."""
    reader.read_media(rows[0])
    named = {name: rows[0].get(name) for name in reader.used}
    turns: list[dict[str, Any]] = []
    spoken: list[tuple[str, str]] = []
    for row in rows:
        for name, value in named.items():
            if row.get(name) != value:
                raise DataError(
                    "E305",
                    f"turns of one conversation name different pictures: {value!r:.80} and "
                    f"{row.get(name)!r:.80}.",
                )
        spoken += _spoken(row, layout)
    marks = reader.placeholders(text for _, text in spoken)
    for role, text in spoken:
        turns.append({"role": role, "content": marks.split(text)})
    if not marks.has_marks:
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"] = marks.take_all() + first["content"]
    marks.check_all_shown()
    raw = [_rest(row, layout.needs | layout.takes, reader) for row in rows]
    return _chat(reader, turns, {"turns": raw} if any(raw) else {})


def _spoken(row: Row, layout: "Layout") -> list[tuple[str, str]]:
    """Return the roles and texts of one row, in order. Raises DataError E203."""
    question, answer = layout.pair
    spoken = []
    if row.get("system"):
        spoken.append(("system", required(row, "system", str)))
    for index, pair in enumerate(typed(row.get("history") or [], list, "history")):
        if len(said := typed(pair, list, f"history[{index}]")) != 2:
            raise DataError("E203", f"history[{index}]={pair!r:.80}: write [question, answer].")
        for role, text in zip(("user", "assistant"), said, strict=True):
            spoken.append((role, typed(text, str, f"history[{index}]")))
    asked = required(row, question, str)
    if "input" in layout.takes and row.get("input"):
        asked = f"{asked}\n{required(row, 'input', str)}"  # as LLaMA-Factory joins the two
    return [*spoken, ("user", asked), ("assistant", required(row, answer, str))]


def _texts_draft(rows: Sequence[Row], reader: RecordReader, layout: "Layout") -> Draft:
    """Read `texts`: The Cauldron's questions and answers, or texts between `images`."""
    (row,) = rows
    texts = required(row, "texts", list)
    if not any(isinstance(text, dict) for text in texts):
        draft = interleaved_draft(row, reader)
        _rest(row, {"images", "texts"}, reader)
        return draft
    reader.read_media(row)
    turns: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        name = f"texts[{index}]"
        pair = typed(text, dict, name)
        for role in ("user", "assistant"):
            turns.append({"role": role, "content": [{"text": required(pair, role, str, of=name)}]})
    turns[0]["content"] = reader.placeholders([]).take_all() + turns[0]["content"]
    raw = _rest(row, {"texts"}, reader)
    sources = [leftovers(text, {"user", "assistant"}) for text in texts]
    return _chat(reader, turns, raw | ({"texts": sources} if any(sources) else {}))


def _chat(reader: RecordReader, turns: list[dict[str, Any]], raw: dict[str, Any]) -> Draft:
    return Draft(
        kind="chat",
        turns=turns,
        media=reader.media,
        raw=raw,
        prompt_ending=reader.store.options.prompt_ending,
    )


# Documents.


def interleaved_draft(row: Row, reader: RecordReader) -> Draft:
    """Read `images` and `texts` in parallel. Raises DataError."""
    images, texts = required(row, "images", list), required(row, "texts", list)
    check_parallel(images, texts)
    content: list[dict[str, Any]] = []
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        if text is None:
            content += reader.read_picture(image, f"images[{index}]")
        else:
            words = END_OF_PAGE.sub("\n\n", typed(text, str, f"texts[{index}]"))
            content.append({"text": words})
    raw = leftovers(row, {"images", "texts"}) | picture_details(row, {"images"})
    return _document(reader, content, raw)


def check_parallel(images: list[Any], texts: list[Any]) -> None:
    """Raise DataError E305 unless at each index exactly one of the two lists has an entry."""
    if len(images) != len(texts):
        raise DataError(
            "E305",
            f"images has {len(images)} entries but texts {len(texts)}; both need the same number.",
        )
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (text is None):
            raise DataError(
                "E305", f"place {index} has {'no' if image is None else 'both a'} picture and text."
            )


def picture_details(row: Row, names: Collection[str]) -> Row:
    """What a table has of each stored picture besides its bytes: mostly a null path."""
    found = {}
    for name in sorted(names):
        stored = [image for image in listed(row.get(name)) if isinstance(image, dict)]
        details = [leftovers(image, {"bytes"}) for image in stored]
        if any(value is not None for each in details for value in each.values()):
            found[name] = details
    return found


OWL_TURN = re.compile(r"(?:^|\n)(Human|AI): ?")
"""mPLUG-Owl's chats are one text."""


def _text_draft(rows: Sequence[Row], reader: RecordReader, layout: "Layout") -> Draft:
    (row,) = rows
    (name,) = layout.needs
    text = required(row, name, str)
    is_chat = "task_type" in row and OWL_TURN.search(text) is not None
    reader.read_media(row, leave_out=not is_chat)
    raw = _rest(row, {name}, reader)
    if is_chat:
        messages = [{"role": role, "content": said} for role, said in _owl_turns(text)]
        turns, _ = reader.read_messages(messages, name)
        return _chat(reader, turns, raw)
    listed = not reader.used.isdisjoint(("images", "videos"))
    return _document(reader, reader.read_text(text, first=not listed), raw)


def _owl_turns(text: str) -> list[tuple[str, str]]:
    """Cut `Human: <image>\\nHuman: What?\\nAI: An owl.` into turns; lines of one speaker join."""
    start, *pieces = OWL_TURN.split(text)
    turns = [("system", start)] if start.strip() else []
    for speaker, said in zip(pieces[::2], pieces[1::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]}\n{said}")
        else:
            turns.append((role, said))
    return turns


def _content_draft(rows: Sequence[Row], reader: RecordReader, layout: "Layout") -> Draft:
    (row,) = rows
    reader.read_media(row, leave_out=True)
    content, extras = reader.read_content(required(row, "content", list), "the record")
    raw = _rest(row, {"content"}, reader)
    return _document(reader, content, raw | ({"content": extras} if any(extras) else {}))


def _document(reader: RecordReader, content: list[dict[str, Any]], raw: dict[str, Any]) -> Draft:
    return Draft(
        kind="document",
        turns=[{"role": "document", "content": content}],
        media=reader.media,
        raw=raw,
        left_out=reader.left_out,
    )


# The table.


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout of records: the fields by which it is known, and how they are read."""

    read: Callable[[Sequence[Row], RecordReader, "Layout"], Draft]
    needs: frozenset[str]
    pair: tuple[str, str] = ("", "")
    """Of a layout of questions: the fields of the question and of its answer."""
    takes: frozenset[str] = frozenset()
    """Fields that it reads where they are there."""

    @property
    def name(self) -> str:
        """Its fields, as messages and the report name it."""
        return " + ".join(self.pair) if self.pair[0] else " + ".join(sorted(self.needs))


def _pair(question: str, answer: str, *takes: str) -> Layout:
    fields = frozenset((question, answer))
    return Layout(_pair_draft, fields, (question, answer), frozenset(takes))


LAYOUTS = (
    Layout(_message_draft, frozenset(["messages"])),
    Layout(_message_draft, frozenset(["conversations"])),
    _pair("question", "answer"),
    _pair("query", "response", "history", "system"),
    _pair("instruction", "output", "input", "history", "system"),
    _pair("prompt", "response", "history", "system"),
    _pair("prompt", "completion"),
    Layout(_texts_draft, frozenset(["texts"])),
    Layout(_content_draft, frozenset(["content"])),
    Layout(_text_draft, frozenset(["text"])),
    Layout(_text_draft, frozenset(["caption"])),
)
