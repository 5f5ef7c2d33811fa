# SPDX-License-Identifier: Apache-2.0
"""Text in which a mark stands for each picture or video, such as LLaVA's `<image>`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from owl.errors import DataError

IMAGE = "<image>"
VIDEO = "<video>"


def split_text(
    text: str, marks: Mapping[str, Iterator[int]], *, counts: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Cut a text at its marks; all other characters stay as they are.

    Args:
        text: as the source has it.
        marks: mark -> indices of the media it stands for, consumed in order.
        counts: mark -> how many media the record has, for the message.

    Raises:
        DataError: E305 more marks than media.
    """
    content: list[dict[str, Any]] = []
    pattern = "|".join(re.escape(mark) for mark in marks)
    for piece in re.split(f"({pattern})", text):
        if piece in marks:
            content.append({"media": _next(marks[piece], piece, counts[piece])})
        elif piece:
            content.append({"text": piece})
    return content


def check_all_shown(marks: Mapping[str, Iterator[int]], *, counts: Mapping[str, int]) -> None:
    """Raise DataError E305 where media are left for which the text has no mark."""
    for mark, left in marks.items():
        if unused := len(list(left)):
            raise DataError(
                "E305",
                f"the record has {counts[mark]} media but only {counts[mark] - unused} {mark} in "
                "its text. Add the missing marks, or take the media out.",
            )


def join_text(content: Sequence[Mapping[str, Any]], mark_of: Mapping[int, str]) -> str:
    """Undo split_text: the mark of each media index in its place."""
    return "".join(part["text"] if "text" in part else mark_of[part["media"]] for part in content)


def _next(left: Iterator[int], mark: str, count: int) -> int:
    for index in left:
        return index
    raise DataError(
        "E305",
        f"the text has more {mark} than the {count} media of the record. Take the mark out, or add "
        "the missing media.",
    )
