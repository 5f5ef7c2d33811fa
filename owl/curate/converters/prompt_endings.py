# SPDX-License-Identifier: Apache-2.0
"""Endings of questions that ask for a form of answer, as the mPLUG-Owl models learn them.

Wording: the formatting prompts of LLaVA-1.5, on a line of their own and with a typographic
apostrophe, as the mPLUG-Owl2 README trains with them ("Training / Prepare Training Data") and as
mPLUG-Owl3 evaluates (`mPLUG-Owl3/evaluation/tasks/task_define/llava_interleave_bench.py`, and
`vqa.py` with `use_llava_style`; without it, vqa.py joins the short-answer ending by a space).
"""

from enum import StrEnum
from typing import Any


class PromptEnding(StrEnum):
    """Kinds of endings."""

    short_answer = "short_answer"
    multiple_choice = "multiple_choice"
    by_question_type = "by_question_type"  # M4 records name their kind


WORDING = {
    PromptEnding.short_answer: "\nAnswer the question using a single word or phrase.",
    PromptEnding.multiple_choice: (
        "\nAnswer with the option\N{RIGHT SINGLE QUOTATION MARK}s letter from the given choices "
        "directly."
    ),
}


def add_ending(content: list[dict[str, Any]], ending: PromptEnding) -> None:
    """Append the ending to a question's content, in place, as a part of its own.

    A question that ends so already, in either spelling of the apostrophe, stays as it is.
    """
    wording = WORDING[ending]
    last = content[-1].get("text", "") if content else ""
    if not _plain(last).endswith(_plain(wording).strip()):
        content.append({"text": wording})


def _plain(text: str) -> str:
    return text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
