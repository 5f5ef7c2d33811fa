# SPDX-License-Identifier: Apache-2.0
"""A conversation in messages, and the same as one string with control tokens.

The markup is that of training (markup_owl3.py); what is added here are marks in the text for media
that are read later, and a chat template in Jinja.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from owl.families.owl3.markup_owl3 import start_turn, write_turns
from owl.portable.pieces_owl import CONTEXT, Control, Piece, RenderedTurn, Text, Tile

CONTROL_LITERALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TURN_ENDS = ("<|im_end|>", "<|endoftext|>")
"""Either ends an answer."""
LEARNED = 1.0
"""Loss weight of what the assistant says."""


class Mark(StrEnum):
    """A place in the text where media stand."""

    image = "<|image|>"
    video = "<|video|>"


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: str
    content: tuple[str | Mark, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said: an empty assistant turn at the end asks for an answer."""
        return not any(self.content)

    @property
    def weight(self) -> float:
        """How much its words count as something to learn."""
        return LEARNED if self.role == "assistant" else CONTEXT

    def spoken(self) -> RenderedTurn[Mark]:
        """Write it in pieces."""
        content = [
            part if isinstance(part, Mark) else Text(part, self.weight) for part in self.content
        ]
        return RenderedTurn(self.role, content, self.weight)


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


def render(turns: Sequence[Turn], *, open_prompt: bool) -> Iterator[Piece | Mark]:
    """Write a conversation.

    Args:
        turns: at least one; an empty assistant turn at the end is where the answer goes.
        open_prompt: end with the header of the assistant's next answer.
    """
    if turns[-1].role == "assistant" and turns[-1].is_empty:
        turns, open_prompt = turns[:-1], True
    yield from write_turns([turn.spoken() for turn in turns])
    if open_prompt:
        yield from start_turn("assistant")
    elif turns[-1].role == "assistant":
        yield Control("<|endoftext|>", LEARNED)


def number_media(pieces: Iterable[Piece | Mark]) -> Iterator[Piece | Mark]:
    """Write `Picture 1: ` before the first picture, `Video 1: ` before the first video, ..."""
    seen = {Mark.image: 0, Mark.video: 0}
    for piece in pieces:
        if isinstance(piece, Mark):
            seen[piece] += 1
            yield Text(f"{'Picture' if piece is Mark.image else 'Video'} {seen[piece]}: ")
        yield piece


def to_string(pieces: Iterable[Piece | Mark]) -> str:
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


def parse_rendered(text: str) -> Iterator[Piece | Mark]:
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
