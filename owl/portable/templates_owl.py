# SPDX-License-Identifier: Apache-2.0
"""Conversations written by a chat template in Jinja other than the published format."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from owl.portable.marks_owl import LEARNED, ChatFormat, Mark
from owl.portable.pieces_owl import Control, Piece, Text
from owl.portable.requests_owl import Ending, RequestError

_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


@dataclass(frozen=True)
class Template:
    """A chat template, with the variables that it reads."""

    source: str
    variables: Mapping[str, Any]

    @property
    def marks_answers(self) -> bool:
        """Whether it says which text is the assistant's."""
        return bool(_GENERATION.search(self.source))

    def check_marks_answers(self, option: str) -> None:
        """Raise RequestError if it does not."""
        if not self.marks_answers:
            raise RequestError(
                f"{option}=True: the chat template does not mark the assistant's text. Put "
                "{% generation %} and {% endgeneration %} around it."
            )

    def render(
        self, messages: Sequence[Any], ending: Ending, tokenizer: PreTrainedTokenizerBase
    ) -> list[tuple[str, bool]]:
        """Write one conversation: parts of its text, and whether the assistant's."""
        texts, spans = render_jinja_template(
            conversations=[messages],
            chat_template=self.source,
            return_assistant_tokens_mask=self.marks_answers,
            add_generation_prompt=ending is Ending.prompt,
            continue_final_message=ending is Ending.open,
            **{**tokenizer.special_tokens_map, **self.variables},
        )
        return list(_cut(texts[0], spans[0] if self.marks_answers else []))


def same_format(template: str, other: str) -> bool:
    """Whether two templates are equal but for the marks of the assistant's text."""
    return _GENERATION.sub("", template) == _GENERATION.sub("", other)


def template_pieces(parts: Sequence[tuple[str, bool]], chat: ChatFormat) -> Iterator[Piece | Mark]:
    """Read what a template wrote; the assistant's text is learned."""
    for text, learned in parts:
        for piece in chat.parse(text):
            if learned and isinstance(piece, Text | Control):
                piece = replace(piece, weight=LEARNED)
            yield piece


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    start = 0
    for first, stop in spans:
        yield text[start:first], False
        yield text[first:stop], True
        start = stop
    yield text[start:], False
