# SPDX-License-Identifier: Apache-2.0
"""Text in which a mark stands for each picture or video: `<image>`, or the model's `<|image|>`.

A backslash before a mark, `\\<image>`, keeps the word itself. LLaVA-NeXT and LLaVA-Video write
`<image>` for a video: in a record that has videos and no pictures, it stands for those.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from owl.curate.converters.records import escape_text
from owl.errors import DataError

MARKS = {"image": ("<image>", "<|image|>"), "video": ("<video>", "<|video|>")}
"""Kind of media -> how sources spell its mark. A record uses one spelling."""
ESCAPED = "|".join(rf"\\{re.escape(mark)}" for marks in MARKS.values() for mark in marks)

Media = Mapping[str, Sequence[int | None]]
"""Kind -> places in the media of the sample, in order; None for a picture that is left out."""


class Placeholders:
    """Replaces the marks in the texts of one record by its media, in order.

    Args:
        media: what the record's fields name.
        texts: all texts of the record, from which the spelling of the marks is taken.
        plain: in a record without media of a kind, its mark is a word like any other; otherwise it
            is an error, since the medium that it stands for is not there.
    """

    def __init__(self, media: Media, texts: Iterable[str], *, plain: bool = False) -> None:
        self._media = media
        self._left: dict[str, Iterator[int | None]] = {k: iter(v) for k, v in media.items()}
        found = "\n".join(texts)
        self._kinds = _kinds_of_marks(media, re.sub(ESCAPED, "", found), plain=plain)
        marks = [re.escape(mark) for mark in self._kinds]
        self._pattern = re.compile(f"({'|'.join([ESCAPED, *marks])})")
        self.has_marks = any(mark in re.sub(ESCAPED, "", found) for mark in self._kinds)

    def split(self, text: str) -> list[dict[str, Any]]:
        """Split a text at its marks into content parts; all other characters are kept.

        Raises:
            DataError: E305 there are more marks than media.
        """
        parts: list[dict[str, Any]] = []
        for piece in self._pattern.split(text):
            if piece in self._kinds:
                parts += self.take(self._kinds[piece], mark=piece)
                continue
            plain = escape_text(piece[1:]) if re.fullmatch(ESCAPED, piece) else piece
            if parts and "text" in parts[-1]:
                parts[-1] = {"text": parts[-1]["text"] + plain}
            elif plain:
                parts.append({"text": plain})
        return parts

    def take(self, kind: str, *, mark: str) -> list[dict[str, Any]]:
        """Return the part that shows the next medium: none if that picture is left out.

        Raises:
            DataError: E305 all are shown already.
        """
        for index in self._left[kind]:
            return [] if index is None else [{"media": index}]
        raise DataError(
            "E305",
            f"the text has more {mark} than the {len(self._media[kind])} media of the record. "
            f"Remove the mark, add the missing media, or write \\{mark} for the word itself.",
        )

    def take_all(self) -> list[dict[str, Any]]:
        """Return the parts that show all media, for a record whose texts have no marks."""
        return [
            {"media": index} for left in self._left.values() for index in left if index is not None
        ]

    def check_all_shown(self) -> None:
        """Raise DataError E305 if the texts had fewer marks than there are media."""
        for kind, left in self._left.items():
            if unused := len(list(left)):
                mark = next((m for m, k in self._kinds.items() if k == kind), MARKS[kind][0])
                count = len(self._media[kind])
                raise DataError(
                    "E305",
                    f"the record has {count} media but only {count - unused} {mark} in its text. "
                    "Add the missing marks, remove the media, or show the media of records "
                    "without any mark before their text with --media-first.",
                )


def _kinds_of_marks(media: Media, text: str, *, plain: bool) -> dict[str, str]:
    """Choose the spelling of each mark -> the kind that it stands for."""
    spelled = {
        kind: next((mark for mark in marks if mark in text), None) for kind, marks in MARKS.items()
    }
    if media["video"] and not media["image"] and spelled["image"] and not spelled["video"]:
        return {spelled["image"]: "video"}
    kinds = {}
    for kind, marks in MARKS.items():
        if media[kind]:
            kinds[spelled[kind] or marks[0]] = kind
        elif not plain:
            kinds[marks[0]] = kind
    return kinds
