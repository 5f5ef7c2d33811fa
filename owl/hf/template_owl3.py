# SPDX-License-Identifier: Apache-2.0
"""A conversation as the published models read it: text, control tokens and tiles, in order.

What owl/data/template.py writes for training, for a folder that travels without the rest of owl
(tests/unit/hf/test_template_owl3.py holds the two together). Newlines *precede* a turn, and the
system prompt is empty unless given:

    <|im_start|>system
    <|im_end|>
    <|im_start|>user
    <|image|>What is this?<|im_end|>
    <|im_start|>assistant
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

CONTROL_LITERALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TURN_ENDS = ("<|im_end|>", "<|endoftext|>")
"""Either ends an answer."""


class Mark(StrEnum):
    """A place in the text where media stand."""

    image = "<|image|>"
    video = "<|video|>"


@dataclass(frozen=True)
class Text:
    """Plain text; neighbours that are learned alike are tokenised as one, unless closed."""

    text: str
    learned: bool = False
    closed: bool = False


@dataclass(frozen=True)
class Control:
    """One control token."""

    literal: str
    learned: bool = False


@dataclass(frozen=True)
class Tile:
    """The placeholder of one encoded picture."""


Piece = Text | Control | Tile | Mark


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: str
    content: tuple[str | Mark, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said: an empty assistant turn at the end asks for an answer."""
        return not any(self.content)


CHAT_TEMPLATE = """\
{%- set seen = namespace(image=0, video=0) -%}
{%- if messages[0]['role'] != 'system' -%}
  {{- '<|im_start|>system\\n<|im_end|>' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- set asks = loop.last and message['role'] == 'assistant' and not message['content'] -%}
  {%- if not asks -%}
    {%- if not (loop.first and message['role'] == 'system') -%}{{- '\\n' -}}{%- endif -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
      {{- message['content'] -}}
    {%- else -%}
      {%- for part in message['content'] -%}
        {%- if part['type'] == 'text' -%}
          {{- part['text'] -}}
        {%- elif part['type'] in ('image', 'video') -%}
          {%- if part['type'] == 'image' -%}
            {%- set seen.image = seen.image + 1 -%}
            {%- if number_media -%}{{- 'Picture ' ~ seen.image ~ ': ' -}}{%- endif -%}
          {%- else -%}
            {%- set seen.video = seen.video + 1 -%}
            {%- if number_media -%}{{- 'Video ' ~ seen.video ~ ': ' -}}{%- endif -%}
          {%- endif -%}
          {{- '<|' + part['type'] + '|>' -}}
        {%- endif -%}
      {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- set last = messages[-1] -%}
{%- if add_generation_prompt or (last['role'] == 'assistant' and not last['content']) -%}
  {{- '\\n<|im_start|>assistant\\n' -}}
{%- elif last['role'] == 'assistant' -%}
  {{- '<|endoftext|>' -}}
{%- endif -%}
"""
"""The same in Jinja, for chat_template.jinja in a saved folder."""


def render(turns: Sequence[Turn], *, open_prompt: bool) -> Iterator[Piece]:
    """Write a conversation.

    Args:
        turns: at least one; an empty assistant turn at the end is where the answer goes.
        open_prompt: end with the header of the assistant's next answer.
    """
    if turns[-1].role == "assistant" and turns[-1].is_empty:
        turns, open_prompt = turns[:-1], True
    if not turns or turns[0].role != "system":
        yield from (Control("<|im_start|>"), Text("system\n"), Control("<|im_end|>"))
    for index, turn in enumerate(turns):
        yield from _turn_start(turn.role, first=index == 0 and turn.role == "system")
        learned = turn.role == "assistant"
        for part in turn.content:
            yield part if isinstance(part, Mark) else Text(part, learned)
        yield Control("<|im_end|>", learned)
    if open_prompt:
        yield from _turn_start("assistant")
    elif turns[-1].role == "assistant":
        yield Control("<|endoftext|>", learned=True)


def _turn_start(role: str, *, first: bool = False) -> Iterator[Piece]:
    if not first:
        yield Text("\n")
    yield Control("<|im_start|>")
    # As published: a question is tokenised together with this newline, an answer is not.
    yield Text(f"{role}\n", closed=role == "assistant")


def number_media(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Write `Picture 1: ` before the first picture, `Video 1: ` before the first video, ..."""
    seen = {Mark.image: 0, Mark.video: 0}
    for piece in pieces:
        if isinstance(piece, Mark):
            seen[piece] += 1
            yield Text(f"{'Picture' if piece is Mark.image else 'Video'} {seen[piece]}: ")
        yield piece


def to_string(pieces: Iterable[Piece]) -> str:
    """Write pieces as one string, which parse_rendered reads back."""
    return "".join(
        piece.text if isinstance(piece, Text)
        else piece.literal if isinstance(piece, Control)
        else Mark.image.value if isinstance(piece, Tile)
        else piece.value
        for piece in pieces
    )  # fmt: skip


_MARKS = re.compile("|".join(re.escape(mark) for mark in Mark))
_LITERALS = re.compile("|".join(re.escape(literal) for literal in (*CONTROL_LITERALS, *Mark)))


def split_marks(text: str) -> tuple[str | Mark, ...]:
    """Split what a user typed at `<|image|>` and `<|video|>`; control literals stay text."""
    return tuple(_cut(text, _MARKS))


def parse_rendered(text: str) -> Iterator[Piece]:
    """Read a string that holds control tokens, such as a chat template writes."""
    after_start = False
    for part in _cut(text, _LITERALS):
        if isinstance(part, Mark):
            yield part
        elif part in CONTROL_LITERALS:
            yield Control(part)
        elif after_start and part.startswith("assistant\n"):
            yield Text("assistant\n", closed=True)
            if part != "assistant\n":
                yield Text(part.removeprefix("assistant\n"))
        else:
            yield Text(part)
        after_start = part == "<|im_start|>"


def _cut(text: str, pattern: re.Pattern[str]) -> Iterator[str | Mark]:
    start = 0
    for match in pattern.finditer(text):
        if match.start() > start:
            yield text[start : match.start()]
        literal = match.group()
        yield Mark(literal) if literal in tuple(Mark) else literal
        start = match.end()
    if start < len(text):
        yield text[start:]


def join_text(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Join neighbouring text that is learned alike, since it is tokenised as one."""
    held: Text | None = None
    for piece in pieces:
        if not isinstance(piece, Text):
            if held:
                yield held
            held = None
            yield piece
        elif held and not held.closed and held.learned == piece.learned:
            held = replace(held, text=held.text + piece.text, closed=piece.closed)
        else:
            if held:
                yield held
            held = piece
    if held:
        yield held


class TemplateV2:
    """7B-240728: words, with a coordinate before each cell."""

    def cut_picture(self, rows: int, columns: int) -> Iterator[Piece]:
        """Write `Cut to 2 rows 3 columns with a global view`, `subimg(0,0)<|image|> ...`."""
        yield Text(f"Cut to {rows} rows {columns} columns with a global view\n")
        for row in range(rows):
            for column in range(columns):
                yield Text(f"subimg({row},{column})")
                yield Tile()
                yield Text(" " if column + 1 < columns else "\n")
        yield Text("global_view")
        yield Tile()

    def clip(self, frames: int) -> Iterator[Piece]:
        """Write the frames side by side, with nothing between."""
        yield from [Tile()] * frames


class TemplateV3:
    """1B/2B-241014 and 7B-241101: marks around a picture's cells and a video's frames."""

    def cut_picture(self, rows: int, columns: int) -> Iterator[Piece]:
        """Write `<|start_cut|>2*3`, the cells row by row, the global view, `<|end_cut|>`."""
        yield Text(f"<|start_cut|>{rows}*{columns}\n")
        for _ in range(rows):
            for column in range(columns):
                yield Tile()
                yield Text(" " if column + 1 < columns else "\n")
        yield Tile()
        yield Text("<|end_cut|>")

    def clip(self, frames: int) -> Iterator[Piece]:
        """Write the frames side by side between two marks."""
        yield Text("<|start_video_frame|>")
        yield from [Tile()] * frames
        yield Text("<|end_video_frame|>")


TEMPLATES: dict[str, TemplateV2 | TemplateV3] = {"v2": TemplateV2(), "v3": TemplateV3()}
