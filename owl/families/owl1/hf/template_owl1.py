# SPDX-License-Identifier: Apache-2.0
"""Conversations in the published format of mPLUG-Owl, as pieces and as a chat template in Jinja.

The markup is that of training (markup_owl1.py).
"""

import re
from collections.abc import Iterator, Sequence

from owl.families.owl1.markup_owl1 import (
    ANSWER,
    BEGIN,
    END,
    HUMAN,
    IMAGE_PLACEHOLDER,
    SYSTEM,
    write_turns,
)
from owl.portable.marks_owl import ChatFormat, Mark, Turn
from owl.portable.pieces_owl import Control, Piece, Text

_APART = (HUMAN.text, ANSWER.text)
_LITERALS = (*Mark, IMAGE_PLACEHOLDER, BEGIN, END, *_APART)
_PARTS = re.compile(f"({'|'.join(map(re.escape, _LITERALS))})")


def render(turns: Sequence[Turn], open_prompt: bool) -> Iterator[Piece | Mark]:
    """Write a conversation.

    Args:
        turns: at least one; an empty assistant turn at the end stands for the open prompt.
        open_prompt: end with `AI: `.
    """
    if turns[-1].role == "assistant" and turns[-1].is_empty:
        turns, open_prompt = turns[:-1], True
    yield from write_turns([turn.to_pieces() for turn in turns])
    if open_prompt:
        yield ANSWER


def parse_rendered(text: str) -> Iterator[Piece | Mark]:
    """Read a prompt as the published code is given it, or as a chat template writes it."""
    if not text.startswith(BEGIN):
        yield Control(BEGIN)
    for part in _PARTS.split(text):
        if part == IMAGE_PLACEHOLDER or part in tuple(Mark):
            yield Mark.image if part == IMAGE_PLACEHOLDER else Mark(part)
        elif part in (BEGIN, END):
            yield Control(part)
        elif part:  # every part is read by itself
            yield Text(part, closed=True)


CHAT = ChatFormat(render, parse_rendered)
CHAT_TEMPLATE = (
    f"""\
{{%- set SYSTEM = {SYSTEM!r} -%}}
"""
    + """\
{{- '<s>' -}}
{%- if messages[0]['role'] != 'system' -%}{{- SYSTEM -}}{%- endif -%}
{%- for message in messages -%}
  {%- set is_user = message['role'] == 'user' -%}
  {%- set HUMAN = '\\nHuman: ' if is_user else '' -%}
  {%- set content -%}
    {%- if message['content'] is string -%}
      {%- for text in message['content'].split('<|image|>') -%}
        {{- HUMAN + '<|image|>' if not loop.first -}}
        {{- HUMAN + text if text -}}
      {%- endfor -%}
    {%- else -%}
      {%- set before = namespace(type='') -%}
      {%- for part in message['content'] -%}
        {%- if part['type'] == 'text' -%}
          {{- (HUMAN if before.type != 'text' else '') + part['text'] -}}
        {%- elif part['type'] in ('image', 'video') -%}
          {{- HUMAN + '<|' + part['type'] + '|>' -}}
        {%- endif -%}
        {%- set before.type = part['type'] -%}
      {%- endfor -%}
    {%- endif -%}
  {%- endset -%}
  {%- if is_user -%}
    {{- content + '\\n' -}}
  {%- elif message['role'] != 'assistant' -%}
    {{- content -}}
  {%- elif not (loop.last and not message['content']) -%}
    {{- 'AI: ' -}}{% generation %}{{- content + '</s>' -}}{% endgeneration %}
  {%- endif -%}
{%- endfor -%}
{%- set last = messages[-1] -%}
{%- if add_generation_prompt or (last['role'] == 'assistant' and not last['content']) -%}
  {{- 'AI: ' -}}
{%- endif -%}
"""
)
"""The format in Jinja, for chat_template.jinja in a saved folder."""
