# SPDX-License-Identifier: Apache-2.0
"""The media, turns and texts of one record, for every layout."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from owl.curate.converters.fields import leftovers, number, required, typed
from owl.curate.converters.formats import media_fields
from owl.curate.converters.formats.placeholders import MARKS, Placeholders
from owl.curate.converters.pictures import EVERYTHING, ClipSource, PictureStore, Span
from owl.curate.converters.records import LeftOut, MediaList
from owl.errors import DataError

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
SPELLINGS = (("role", "content"), ("from", "value"))
"""Fields of a message: its speaker and its text."""
SPANS = (("video_start", "video_end"), ("start", "end"))
"""Fields beside a video that say which seconds of it are shown (Qwen; clips of longer videos)."""
LEARNED = ("loss", "train", "trainable")
"""Flags of a message that say whether it is learned (ms-swift, axolotl)."""
WEIGHTS = ("weight", "loss_scale")
"""Factors of its loss (OpenAI, ms-swift)."""

PART_KINDS = {
    "text": ("text",),
    "input_text": ("text",),
    "output_text": ("text",),
    "image": ("image", "path", "url", "image_url", "base64"),
    "image_url": ("image_url", "url"),
    "input_image": ("image_url", "file_id"),
    "video": ("video", "path", "url", "video_url"),
    "video_url": ("video_url", "url"),
}
"""`type` of a content part -> the fields that may hold it (TRL, transformers, Qwen, OpenAI)."""


@dataclass(slots=True)
class RecordReader:
    """Reads one record: first the fields that name media, then the texts that show them."""

    store: PictureStore
    clips: ClipSource
    media: MediaList = field(default_factory=MediaList)
    shown: dict[str, list[int | None]] = field(default_factory=lambda: {kind: [] for kind in MARKS})
    """Kind -> the media that fields of the record name; content parts may add others."""
    used: set[str] = field(default_factory=set)
    left_out: list[LeftOut] = field(default_factory=list)

    def read_media(self, value: Mapping[str, Any], *, leave_out: bool = False) -> None:
        """Add the pictures and videos that the record's fields name.

        Args:
            value: the record.
            leave_out: a document may be written without a missing picture, by option; a question
                about one would have no answer.

        Raises:
            DataError: one of them is unusable, or two fields name media of a kind.
        """
        for kind in MARKS:
            name = media_fields.find_field(value, kind)
            if name is None:
                self.used |= {each for each in media_fields.FIELDS[kind][0] if each in value}
                continue
            self.used.add(name)
            span = find_span(value) if kind == "video" else EVERYTHING
            for index, item in enumerate(media_fields.listed(value[name])):
                where = f"{name}[{index}]" if isinstance(value[name], list) else name
                place = self._add(kind, item, where, leave_out=leave_out, span=span)
                self.shown[kind].append(place)

    def check_all_read(self, rest: Mapping[str, Any], where: str = "") -> None:
        """Raise DataError E305 if a field that nobody reads looks like media."""
        media_fields.check_all_read(
            rest,
            has_media=bool(self.media.entries),
            ignored=self.store.options.ignore_fields,
            where=where,
        )

    def placeholders(self, texts: Iterable[str]) -> Placeholders:
        """Marks of the record, given all its texts."""
        return Placeholders(self.shown, texts, plain=self.store.options.escape)

    def read_messages(
        self, messages: Sequence[Any], name: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Read a chat.

        Args:
            messages: {"role", "content"} or {"from", "value"}; content is a text or a list of
                parts, and media that a message names itself come before its text.
            name: of the list, for messages.

        Returns:
            The turns of the sample, and of each message what it does not hold.

        Raises:
            DataError: E203 a wrong type, speaker or part, E305 marks and media do not match.
        """
        turns, extras = [], []
        items = [typed(item, dict, f"{name}[{index}]") for index, item in enumerate(messages)]
        contents = [_speech(item, f"{name}[{index}]") for index, item in enumerate(items)]
        marks = self.placeholders(content for _, content in contents if isinstance(content, str))
        for index, (item, (role, content)) in enumerate(zip(items, contents, strict=True)):
            where = f"{name}[{index}]"
            own = RecordReader(self.store, self.clips, self.media)  # what the message names itself
            if isinstance(content, list):
                parts, rest = self._read_parts(content, marks, where)
            else:
                own.read_media(item)
                has_own, rest = any(own.shown.values()), []
                parts = own.read_text(content, first=True) if has_own else marks.split(content)
            turns.append({"role": role, "content": parts} | _learning(item, where))
            spoken = {field for pair in SPELLINGS for field in pair}
            extra = leftovers(item, {*spoken, *own.used, *LEARNED, *WEIGHTS})
            self.check_all_read(extra, f"{where}.")
            extras.append(extra | ({"content": rest} if any(rest) else {}))
        self._show_first(turns, marks)
        marks.check_all_shown()
        return turns, extras

    def read_picture(self, value: object, name: str) -> list[dict[str, Any]]:
        """Read a picture of a document: its part, or none if it is left out. Raises DataError."""
        place = self._add("image", value, name, leave_out=True)
        return [] if place is None else [{"media": place}]

    def read_text(self, text: str, *, first: bool) -> list[dict[str, Any]]:
        """Read the text of a document; without marks its media may come first.

        Raises:
            DataError: E305 marks and media do not match.
        """
        marks = self.placeholders([text])
        unplaced = first or self.store.options.media_first
        start = marks.take_all() if unplaced and not marks.has_marks else []
        parts = start + marks.split(text)
        marks.check_all_shown()
        return parts

    def read_content(self, parts: Sequence[Any], name: str) -> tuple[list[Any], list[Any]]:
        """Read a document given as parts: its parts, and of each what it does not hold."""
        marks = self.placeholders([])
        found, extras = self._read_parts(parts, marks, name)
        marks.check_all_shown()
        return found, extras

    def _show_first(self, turns: Sequence[dict[str, Any]], marks: Placeholders) -> None:
        """Put media without any mark before the first question, by option."""
        shown = any("media" in part for turn in turns for part in turn["content"])
        if self.store.options.media_first and not marks.has_marks and not shown:
            for turn in turns:
                if turn["role"] == "user":
                    turn["content"] = marks.take_all() + turn["content"]
                    return

    def _read_parts(
        self, parts: Sequence[Any], marks: Placeholders, path: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        found, extras = [], []
        for index, item in enumerate(parts):
            name = f"{path}.content[{index}]"
            given = typed(item, dict, name)
            part = {key: value for key, value in given.items() if value is not None}
            kind, holder = _kind_of_part(part, name)
            if not holder:
                found += marks.take(kind, mark=f"parts of type {kind}")
            elif kind == "text":
                found.append({"text": required(part, holder, str, of=name)})
            else:
                span = find_span(part) if kind == "video" else EVERYTHING
                place = self._add(kind, part[holder], name, span=span)
                assert place is not None  # only documents leave pictures out
                found.append({"media": place})
            extra = leftovers(part, {"type", holder or "index"})
            self.check_all_read(extra, f"{name}.")
            extras.append(extra)
        return found, extras

    def _add(
        self,
        kind: str,
        value: object,
        name: str,
        *,
        leave_out: bool = False,
        span: Span = EVERYTHING,
    ) -> int | None:
        if kind == "video":
            path = value.get("path", value.get("url")) if isinstance(value, dict) else value
            return self.clips.add_clip(self.media, typed(path, str, name), span)
        if leave_out:
            return self.store.add_unless_missing(self.media, value, name, self.left_out)
        return self.store.add_value(self.media, value, name)


def find_span(fields: Mapping[str, Any]) -> Span:
    """Return the seconds [start, end) to be shown of the video beside them. Raises DataError E203.

    The fields stay in meta.raw. Texts, as `start` may be one, say nothing about a video.
    """
    for names in SPANS:
        given = [fields.get(name) for name in names]
        if not any(isinstance(value, int | float) for value in given):
            continue
        start, end = (
            limit if value is None else number(value, name)
            for name, value, limit in zip(names, given, EVERYTHING, strict=True)
        )
        if not 0 <= start < end:
            raise DataError(
                "E203",
                f"the video goes from {names[0]}={start} to {names[1]}={end}; 0 <= start < end is "
                "needed.",
            )
        return start, end
    return EVERYTHING


def _speech(message: Mapping[str, Any], name: str) -> tuple[str, str | list[Any]]:
    """Return the role and the content of a message. Raises DataError E203."""
    speaker, text = SPELLINGS[1] if "from" in message else SPELLINGS[0]
    said = required(message, speaker, str, of=name)
    if said not in ROLES:
        raise DataError("E203", f"{name}.{speaker}={said!r}: use one of {sorted(ROLES)}.")
    content = required(message, text, object, of=name)
    if isinstance(content, list) and speaker == "role":
        return ROLES[said], content
    return ROLES[said], typed(content, str, f"{name}.{text}")


def _learning(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return `loss` and `weight` of a turn, as far as the message sets them. Raises E203."""
    found: dict[str, Any] = {}
    for flag in LEARNED:
        if (value := message.get(flag)) is not None:
            if value not in (0, 1):
                raise DataError("E203", f"{name}.{flag}={value!r:.80}: use true or false.")
            found["loss"] = bool(value) and found.get("loss", True)
    for factor in WEIGHTS:
        if (value := message.get(factor)) is not None:
            found["weight"] = number(value, f"{name}.{factor}")
    return found


def _kind_of_part(part: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Return whether a part is text, image or video, and the field that holds it, if any.

    Raises:
        DataError: E203 it is none of these.
    """
    written = part.get("type") or next((kind for kind in ("text", *MARKS) if kind in part), None)
    holders = [field for field in PART_KINDS.get(str(written), ()) if field in part]
    kind = next((k for k in ("text", *MARKS) if k in str(written)), "")
    if str(written) in PART_KINDS and len(holders) == 1:
        return kind, holders[0]
    if written in MARKS and not holders:
        return kind, ""
    raise DataError(
        "E203",
        f'{name}={part!r:.80}: write {{"type": "text", "text": ...}}, {{"type": "image", "image": '
        'PATH}, or {"type": "image"} with the path in the list `images` of the record.',
    )
