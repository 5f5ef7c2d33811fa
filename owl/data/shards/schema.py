# SPDX-License-Identifier: Apache-2.0
"""owl3-sample/1: the shape of a sample on disk, and the literals that its text may not contain.

A sample stores nothing that belongs to a model: no placeholder, no grid, no token ids. Text is kept
character for character; media are referenced by index where the text shows them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = "owl3-sample/1"

CONTROL_LITERALS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
"""Control tokens of Qwen2."""
MARKUP_LITERALS = (
    "<|image|>",
    "<|video|>",
    "<|start_cut|>",
    "<|end_cut|>",
    "<|start_video_frame|>",
    "<|end_video_frame|>",
)
"""What the templates write. The tokenizer reads it as plain text, so a copy in user text
would be taken for markup."""
LEFTOVER_LITERALS = ("<image>",)
"""Placeholder of other formats (LLaVA) that a converter forgot to replace."""
FORBIDDEN_LITERALS = CONTROL_LITERALS + MARKUP_LITERALS + LEFTOVER_LITERALS

CUT_MODES = ("auto", "on", "off")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SampleProblem:
    """One rule that a sample breaks."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Field:
    """A key of a json object: its type, and whether it must be there."""

    kind: type | tuple[type, ...]
    required: bool = False


NUMBER = (int, float)

DOCUMENT_FIELDS = {
    "schema": Field(str, required=True),
    "id": Field(str, required=True),
    "kind": Field(str, required=True),
    "media": Field(list),
    "turns": Field(list, required=True),
    "meta": Field(dict),
}
MEDIA_COMMON = {
    "type": Field(str, required=True),
    "w": Field(int),
    "h": Field(int),
    "uri": Field(str),
    "alt": Field(str),
    "unused": Field(bool),
}
MEDIA_FIELDS = {
    "image": MEDIA_COMMON | {"file": Field(str, required=True), "cut": Field(str)},
    "frames": MEDIA_COMMON
    | {
        "files": Field(list, required=True),
        "t": Field(list),
        "duration": Field(NUMBER),
        "of": Field(str),
    },
    "video": MEDIA_COMMON | {"file": Field(str, required=True), "sample": Field(dict)},
}
TURN_FIELDS = {
    "role": Field(str, required=True),
    "content": Field(list, required=True),
    "loss": Field(bool),
    "weight": Field(NUMBER),
}
TEXT_FIELDS = {
    "text": Field(str, required=True),
    "loss": Field(bool),
    "weight": Field(NUMBER),
}
MEDIA_PART_FIELDS = {"media": Field(int, required=True), "frames": Field(list)}


def shape_problems(document: Json) -> Iterator[SampleProblem]:
    """Yield E202 for another schema; else E203 for each field of the wrong type, too many or too
    few. Every other rule relies on these.
    """
    if document.get("schema") != SCHEMA:
        yield SampleProblem(
            "E202", f"schema={document.get('schema')!r}, but this version reads {SCHEMA!r}."
        )
        return
    yield from _field_problems("the document", document, DOCUMENT_FIELDS)
    if document.get("kind") not in ("chat", "document"):
        yield SampleProblem("E203", f"kind={document.get('kind')!r}: use 'chat' or 'document'.")
    for index, media in enumerate(_list(document.get("media"))):
        yield from _media_shape(f"media[{index}]", media)
    for index, turn in enumerate(_list(document.get("turns"))):
        yield from _turn_shape(f"turns[{index}]", turn)


def _media_shape(name: str, media: object) -> Iterator[SampleProblem]:
    # str(): the type may be anything that json can hold, and a list is not hashable.
    fields = MEDIA_FIELDS.get(str(media.get("type"))) if isinstance(media, dict) else None
    if fields is None:
        yield SampleProblem("E203", f"{name} needs a type: one of {sorted(MEDIA_FIELDS)}.")
        return
    assert isinstance(media, dict)
    yield from _field_problems(name, media, fields)
    if media.get("cut", "auto") not in CUT_MODES:
        yield SampleProblem("E203", f"{name}.cut={media['cut']!r}: use one of {CUT_MODES}.")
    if any(not isinstance(file, str) for file in _list(media.get("files"))):
        yield SampleProblem("E203", f"{name}.files must be a list of file names.")
    if any(not _is_a(second, NUMBER) for second in _list(media.get("t"))):
        yield SampleProblem("E203", f"{name}.t must be a list of seconds.")


def _turn_shape(name: str, turn: object) -> Iterator[SampleProblem]:
    yield from _field_problems(name, turn, TURN_FIELDS)
    if not isinstance(turn, dict):
        return
    for index, part in enumerate(_list(turn.get("content"))):
        is_media = isinstance(part, dict) and "media" in part
        fields = MEDIA_PART_FIELDS if is_media else TEXT_FIELDS
        yield from _field_problems(f"{name}.content[{index}]", part, fields)
        if is_media and not _is_range(part.get("frames", [0, 1])):
            yield SampleProblem(
                "E203", f"{name}.content[{index}].frames={part['frames']!r}: write [first, end]."
            )


def _field_problems(
    name: str, value: object, fields: Mapping[str, Field]
) -> Iterator[SampleProblem]:
    if not isinstance(value, dict):
        yield SampleProblem("E203", f"{name} is {value!r:.80}, not an object.")
        return
    for extra in value.keys() - fields.keys():
        yield SampleProblem(
            "E203",
            f"{name} has a field {extra!r} that {SCHEMA} does not know. Move it into meta.raw.",
        )
    for key, field in fields.items():
        if key not in value:
            if field.required:
                yield SampleProblem("E203", f"{name} lacks the field {key!r}.")
        elif not _is_a(value[key], field.kind):
            yield SampleProblem("E203", f"{name}.{key}={value[key]!r:.80} has the wrong type.")


def _is_a(value: object, kind: type | tuple[type, ...]) -> bool:
    """Like isinstance, but a bool is not a number (json distinguishes them, Python does not)."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind)


def _is_range(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_a(end, int) for end in value)


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
