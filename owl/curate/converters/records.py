# SPDX-License-Identifier: Apache-2.0
"""What every converter has in common: a source record in, a sample or a reject out.

A family turns a record into a Draft. Here the draft becomes an owl3-sample/1, and back: what our
format has no field for stays in `meta.raw`, and how the rest was spelled in `meta.form`, so that
each family can give its source record back.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from owl.curate.converters.escape_source import escape_text, unescape_text
from owl.curate.converters.formats.prompt_endings import PromptEnding, add_ending, remove_ending
from owl.data.shards.schema import SCHEMA, Json
from owl.errors import DataError, OwlError

MAX_NESTING = 64
"""Python's json parser gives up near 1000, at a depth that depends on who calls it: a document has
to be far from that, or it would end a training run instead of this one."""


class ConvertError(OwlError):
    """The conversion cannot start or go on; no record is to blame."""


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One record as it stands in the source."""

    file: str  # relative to the input folder
    line: int  # from 1: line of a json-lines file, element of an array, row of a table, tar sample
    value: Any


@dataclass(frozen=True, slots=True)
class Reject:
    """A source record that gives no sample, and why."""

    file: str
    line: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.code}: {self.message}"


class MissingPictures(StrEnum):
    """What to do with a web document one of whose pictures is missing or damaged."""

    reject = "reject"  # the whole document
    leave_out = "leave_out"  # only the picture, which is noted in meta.form


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """Choices that change what is written."""

    prompt_ending: PromptEnding | None = None
    escape: bool = False
    """Keep text that looks like markup as plain text, instead of rejecting it (E206)."""
    missing_pictures: MissingPictures = MissingPictures.reject
    cut: str | None = None
    """Mark each picture: on, off or auto; None writes no mark."""
    turns_of: str | None = None
    """Consecutive jsonl records with the same value in this field are turns of one conversation."""
    url_map: Path | None = None
    """A jsonl of {"url": ..., "file": ...}: where the picture of a url lies under --images."""
    decode: bool = True
    """Decode every picture to the end; otherwise only its header is read."""


@dataclass(slots=True)
class MediaList:
    """The media of one sample, as they are collected."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def add_picture(self, data: bytes, suffix: str, **fields: Any) -> int:
        """Append a picture; return its index. Fields that are None are left out."""
        file = f"m{len(self.entries):04}.{suffix}"
        self.files[file] = data
        return self._add({"type": "image", "file": file}, fields)

    def add_clip(self, frames: list[tuple[bytes, str]], **fields: Any) -> int:
        """Append a video stored as pictures, each given as (bytes, suffix); return its index."""
        names = []
        for number, (data, suffix) in enumerate(frames):
            names.append(f"m{len(self.entries):04}.f{number:04}.{suffix}")
            self.files[names[-1]] = data
        return self._add({"type": "frames", "files": names}, fields)

    def _add(self, entry: dict[str, Any], fields: Mapping[str, Any]) -> int:
        known = {name: value for name, value in fields.items() if value is not None}
        self.entries.append(entry | known)
        return len(self.entries) - 1


@dataclass(slots=True, kw_only=True)
class Draft:
    """What a family made of a record, before the options that all families share."""

    kind: str  # "chat" or "document"
    turns: list[dict[str, Any]]
    media: MediaList
    raw: dict[str, Any] = field(default_factory=dict)
    """What our format has no field for, word for word."""
    form: dict[str, Any] = field(default_factory=dict)
    """How the source spelled what our format does have."""
    prompt_ending: PromptEnding | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ConvertedSample:
    """One sample, ready to be written into a shard."""

    key: str
    document: Json
    files: Mapping[str, bytes]


def finish_draft(
    draft: Draft, record: SourceRecord, key: str, *, family: str, options: ConvertOptions
) -> ConvertedSample:
    """Apply the shared options and write the document.

    Raises:
        DataError: E203 leftovers that json cannot hold, E206 text that escaping cannot keep apart.
    """
    if draft.prompt_ending:
        draft.form["prompt_ending"] = _end_prompts(draft.turns, draft.prompt_ending)
    if options.escape and _escape_turns(draft.turns):
        draft.form["escaped"] = True
    meta = {
        "source": family,
        "from": f"{record.file}:{record.line}",
        "raw": draft.raw,
        "form": draft.form,
    }
    check_json(meta)
    document = {
        "schema": SCHEMA,
        "id": draft.id or key,
        "kind": draft.kind,
        "media": draft.media.entries,
        "turns": draft.turns,
        "meta": {name: value for name, value in meta.items() if value},
    }
    return ConvertedSample(key, document, draft.media.files)


@dataclass(frozen=True, slots=True)
class OpenedSample:
    """A converted sample with the shared options undone: what each family's inverse starts from."""

    media: list[dict[str, Any]]
    turns: list[dict[str, Any]]
    raw: dict[str, Any]
    form: dict[str, Any]
    files: Mapping[str, bytes]


def open_sample(document: Json, files: Mapping[str, bytes]) -> OpenedSample:
    """Undo what finish_draft did."""
    copy = json.loads(json.dumps(document))
    meta, turns = copy["meta"], copy["turns"]
    raw, form = meta.get("raw", {}), meta.get("form", {})
    if form.get("escaped"):
        for part in _texts(turns):
            part["text"] = unescape_text(part["text"])
    if ended := form.get("prompt_ending"):
        for index in ended["turns"]:
            remove_ending(turns[index]["content"], PromptEnding(ended["kind"]))
    return OpenedSample(copy["media"], turns, raw, form, files)


def check_json(value: dict[str, Any]) -> None:
    """Raise E203 for leftovers that json cannot give back: bytes, dates, NaN, deep nesting."""
    if (depth := _nesting(value)) > MAX_NESTING:
        raise DataError(
            "E203", f"a leftover field is nested {depth} deep, over {MAX_NESTING}. Drop it."
        )
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            "E203",
            f"a leftover field cannot be kept as json: {error}. Drop the field from the source.",
        ) from error


def _nesting(value: object) -> int:
    """How deep lists and objects lie in one another; no recursion, which is what it guards."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [child for item in level for child in _children(item)]
    return depth


def _children(item: object) -> list[object]:
    inner = item.values() if isinstance(item, dict) else item
    assert isinstance(inner, Iterable)
    return [child for child in inner if isinstance(child, dict | list)]


def _end_prompts(turns: list[dict[str, Any]], ending: PromptEnding) -> dict[str, Any]:
    """Add the ending to every question; note which of them got it."""
    questions = [index for index, turn in enumerate(turns) if turn["role"] == "user"]
    ended = [index for index in questions if add_ending(turns[index]["content"], ending)]
    return {"kind": ending.value, "turns": ended}


def _escape_turns(turns: list[dict[str, Any]]) -> bool:
    """Escape every text; return whether any changed."""
    changed = False
    for part in _texts(turns):
        escaped = escape_text(part["text"])
        changed |= escaped != part["text"]
        part["text"] = escaped
    return changed


def _texts(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for turn in turns for part in turn["content"] if "text" in part]
