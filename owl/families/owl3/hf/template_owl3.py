# SPDX-License-Identifier: Apache-2.0
"""Conversations in the published format, as pieces with marks and as a chat template in Jinja.

The markup is that of training (markup_owl3.py).
"""

from collections.abc import Iterator, Sequence

from owl.families.owl3.markup_owl3 import start_turn, write_turns
from owl.portable.marks_owl import (
    CONTROL_LITERALS,
    LEARNED,
    ChatFormat,
    Mark,
    Turn,
    split_literals,
)
from owl.portable.pieces_owl import Control, Piece, Text

TURN_ENDS = ("<|im_end|>", "<|endoftext|>")
"""Either ends an answer."""

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
    {%- set body = namespace(text='') -%}
    {%- if message['content'] is string -%}
      {%- set body.text = message['content'] -%}
    {%- else -%}
      {%- for part in message['content'] -%}
        {%- if part['type'] == 'text' -%}
          {%- set body.text = body.text ~ part['text'] -%}
        {%- elif part['type'] in ('image', 'video') -%}
          {%- set number = '' -%}
          {%- if part['type'] == 'image' -%}
            {%- set seen.image = seen.image + 1 -%}
            {%- if number_media -%}{%- set number = 'Picture ' ~ seen.image ~ ': ' -%}{%- endif -%}
          {%- else -%}
            {%- set seen.video = seen.video + 1 -%}
            {%- if number_media -%}{%- set number = 'Video ' ~ seen.video ~ ': ' -%}{%- endif -%}
          {%- endif -%}
          {%- set body.text = body.text ~ number ~ '<|' + part['type'] + '|>' -%}
        {%- endif -%}
      {%- endfor -%}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
      {%- generation -%}{{- body.text ~ '<|im_end|>' -}}{%- endgeneration -%}
    {%- else -%}
      {{- body.text ~ '<|im_end|>' -}}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- set last = messages[-1] -%}
{%- if add_generation_prompt or (last['role'] == 'assistant' and not last['content']) -%}
  {{- '\\n<|im_start|>assistant\\n' -}}
{%- elif last['role'] == 'assistant' -%}
  {%- generation -%}{{- '<|endoftext|>' -}}{%- endgeneration -%}
{%- endif -%}
"""
"""The format in Jinja, for chat_template.jinja in a saved folder."""


def render(turns: Sequence[Turn], open_prompt: bool) -> Iterator[Piece | Mark]:
    """Write a conversation.

    Args:
        turns: at least one; an empty assistant turn at the end stands for the open prompt.
        open_prompt: end with the header of the assistant's next answer.
    """
    if turns[-1].role == "assistant" and turns[-1].is_empty:
        turns, open_prompt = turns[:-1], True
    yield from write_turns([turn.to_pieces() for turn in turns])
    if open_prompt:
        yield from start_turn("assistant")
    elif turns[-1].role == "assistant":
        yield Control("<|endoftext|>", LEARNED)


def parse_rendered(text: str) -> Iterator[Piece | Mark]:
    """Read a string with control tokens, such as a chat template writes."""
    after_start = False
    for part in split_literals(text):
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


CHAT = ChatFormat(render, parse_rendered)
