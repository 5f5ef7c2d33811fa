# SPDX-License-Identifier: Apache-2.0
"""Conversations in the published formats of mPLUG-Owl2, as pieces and as chat templates in Jinja.

The markup is that of training (markup_owl2.py).
"""

import re
from collections.abc import Iterator, Sequence

from owl.families.owl2.markup_owl2 import BEGIN, END, PRETRAIN, SYSTEM, start_answer, write_turns
from owl.portable.marks_owl import ChatFormat, Mark, Turn
from owl.portable.pieces_owl import Control, Piece, Text

TEMPLATES = (*SYSTEM, PRETRAIN)
_PARTS = re.compile(rf"({'|'.join(map(re.escape, (*Mark, BEGIN, END)))}|ASSISTANT: ?(?=.))", re.S)


def chat_format(template: str) -> ChatFormat:
    """Return how a template writes conversations, and reads rendered ones."""

    def render(turns: Sequence[Turn], open_prompt: bool) -> Iterator[Piece | Mark]:
        if turns[-1].role == "assistant" and turns[-1].is_empty:
            turns, open_prompt = turns[:-1], True
        yield from write_turns([turn.to_pieces() for turn in turns], template)
        if open_prompt and template != PRETRAIN:
            yield from start_answer()

    return ChatFormat(render, parse_rendered)


def parse_rendered(text: str) -> Iterator[Piece | Mark]:
    """Read a prompt as the published code is given it, or as a chat template writes it."""
    if not text.startswith(BEGIN):
        yield Control(BEGIN)
    for part in _PARTS.split(text):
        if part in tuple(Mark):
            yield Mark(part)
        elif part in (BEGIN, END):
            yield Control(part)
        elif part.startswith("ASSISTANT:"):
            # The answer is read by itself, and begins with a space of its own.
            yield from start_answer()
        elif part:
            yield Text(part)


_JINJA = """\
{{- '<s>' -}}
{%- if SYSTEM and messages[0]['role'] != 'system' -%}{{- SYSTEM + ' ' -}}{%- endif -%}
{%- for message in messages -%}
  {%- set asks = loop.last and message['role'] == 'assistant' and not message['content'] -%}
  {%- set content -%}
    {%- if message['content'] is string -%}
      {{- message['content'] -}}
    {%- else -%}
      {%- for part in message['content'] -%}
        {%- if part['type'] == 'text' -%}
          {{- part['text'] -}}
        {%- elif part['type'] in ('image', 'video') -%}
          {{- '<|' + part['type'] + '|>' -}}
        {%- endif -%}
      {%- endfor -%}
    {%- endif -%}
  {%- endset -%}
  {%- if message['role'] == 'assistant' and not asks -%}
    {{- ANSWER -}}{% generation %}{{- content + '</s>' -}}{% endgeneration %}
  {%- elif not asks -%}
    {{- (USER if message['role'] == 'user' else '') + content + SPACE -}}
  {%- endif -%}
{%- endfor -%}
{%- set last = messages[-1] -%}
{%- if add_generation_prompt or (last['role'] == 'assistant' and not last['content']) -%}
  {{- ANSWER.rstrip() -}}
{%- endif -%}
"""


def chat_template(template: str) -> str:
    """Return a template in Jinja, for chat_template.jinja in a saved folder."""
    roles = template != PRETRAIN
    values = {
        "SYSTEM": SYSTEM.get(template, ""),
        "ANSWER": "ASSISTANT: " if roles else "",
        "USER": "USER: " if roles else "",
        "SPACE": " " if roles else "",
    }
    lines = [f"{{%- set {name} = {value!r} -%}}\n" for name, value in values.items()]
    return "".join(lines) + _JINJA
