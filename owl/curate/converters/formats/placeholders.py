# SPDX-License-Identifier: Apache-2.0
"""Text in which a mark stands for each picture or video, such as LLaVA's `<image>`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from owl.errors import DataError

IMAGE = "<image>"
VIDEO = "<video>"


class Placeholders:
    """Replaces the marks in the texts of one record by the indices of its media, in order.

    Args:
        counts: mark -> how many media it stands for. The media of the sample are ordered likewise:
            first all of the first mark, then all of the second.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts
        self._pattern = re.compile("(" + "|".join(map(re.escape, counts)) + ")")
        self._left: dict[str, Iterator[int]] = {}
        start = 0
        for mark, count in counts.items():
            self._left[mark] = iter(range(start, start + count))
            start += count

    def split(self, text: str) -> list[dict[str, Any]]:
        """Split a text at its marks into content parts; all other characters are kept.

        Raises:
            DataError: E305 there are more marks than media.
        """
        pieces = [piece for piece in self._pattern.split(text) if piece]
        return [self._next(piece) if piece in self._left else {"text": piece} for piece in pieces]

    def check_all_shown(self) -> None:
        """Raise DataError E305 if the texts had fewer marks than there are media."""
        for mark, left in self._left.items():
            if unused := len(list(left)):
                raise DataError(
                    "E305",
                    f"the record has {self._counts[mark]} media but only "
                    f"{self._counts[mark] - unused} {mark} in its text. Add the missing marks, or "
                    "remove the media.",
                )

    def _next(self, mark: str) -> dict[str, Any]:
        for index in self._left[mark]:
            return {"media": index}
        raise DataError(
            "E305",
            f"the text has more {mark} than the {self._counts[mark]} media of the record. Remove "
            "the mark, or add the missing media.",
        )
