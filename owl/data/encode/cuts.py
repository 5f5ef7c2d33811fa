# SPDX-License-Identifier: Apache-2.0
"""Where a document that is longer than a pack is cut: between two tokens.

A content part that a pack can hold is kept whole. A longer text is cut where a line ends if one
does near the end of the budget, else before a word, else (a script without spaces) between any two
tokens that are not halves of one character. No text is lost, and each is tokenised at most twice:
once to find where its tokens end, once as the part that is used.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from owl.data.shards.document import Part, TextPart

Measured = tuple[int, int]
"""Text tokens (placeholders included) and tiles."""

UNIT_CHARACTERS = 2000
"""Texts are looked at in pieces of at most this many characters, so that what lies far behind the
end of a truncated document is not tokenised."""

GIVEN_UP = 8
"""A line's or a word's end is preferred if it costs at most this part of the budget."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A place with media, or a piece of text; positions count characters, a place as one."""

    part: int  # where its content part begins
    first: int
    end: int
    tokens: int
    tiles: int
    text: str = ""  # empty for media
    token_ends: Sequence[int] = ()  # in characters from `first`


def slice_content(content: Sequence[Part], first: int, end: int) -> tuple[list[Part], slice]:
    """Cut a stretch out of a document's content.

    Args:
        content: text parts and places with media.
        first: position of its beginning; a place with media counts as one character.
        end: position behind it.

    Returns:
        The parts, and which of the content's places with media they show.
    """
    kept: list[Part] = []
    position = places_before = places = 0
    for part in content:
        if isinstance(part, TextPart):
            low, high = max(first - position, 0), max(end - position, 0)
            if part.text[low:high]:
                kept.append(part._replace(text=part.text[low:high]))
            position += len(part.text)
        else:
            places_before += position < first
            if first <= position < end:
                kept.append(part)
                places += 1
            position += 1
    return kept, slice(places_before, places_before + places)


def break_text(text: str) -> Iterator[str]:
    """Break a long text into pieces that join to it again, at a line's end or a word's, if any."""
    while len(text) > UNIT_CHARACTERS:
        end = _line_or_word(text, 0, UNIT_CHARACTERS) or UNIT_CHARACTERS
        yield text[:end]
        text = text[end:]
    if text:
        yield text


def _line_or_word(text: str, low: int, high: int) -> int | None:
    """The last line's end above `low` and up to `high`, else the last end of a word there."""
    line = text.rfind("\n", low, high) + 1
    # A space belongs to the word after it: the tokenizer reads them as one.
    word = text.rfind(" ", low + 1, high + 1)
    return line or (word if word > low else None)


class DocumentCuts:
    """Cuts one document into parts that keep both budgets.

    Args:
        content: of its turn.
        measure: counts the part between two positions, with what a sample's text begins and ends
            with.
        token_ends: for each token of a text, the characters up to its end.
        max_tokens: of a pack.
        max_tiles: of a pack.
    """

    def __init__(
        self,
        content: Sequence[Part],
        measure: Callable[[int, int], Measured],
        token_ends: Callable[[str], Sequence[int]],
        *,
        max_tokens: int,
        max_tiles: int,
    ) -> None:
        self._measure, self._token_ends = measure, token_ends
        self._max_tokens, self._max_tiles = max_tokens, max_tiles
        self._around, _ = measure(0, 0)
        self._source = self._read_units(content)
        self._units: list[Unit] = []

    def parts(self) -> Iterator[tuple[int, int, Measured] | None]:
        """Yield first and end of each part, and its size; None for what no pack can hold."""
        first = 0
        while self._unit_at(first) is not None:
            part = self._longest_part(first)
            if part is None:
                yield None
                unit = self._unit_at(first)
                assert unit is not None, "it was there before"
                first = unit.end
            else:
                yield first, *part
                first = part[0]

    def _longest_part(self, first: int) -> tuple[int, Measured] | None:
        """End and size of the part that begins at `first`.

        The sum of tokens counted piece by piece is a guess, so the part is measured as it will be
        read, and made shorter while it is too long.
        """
        room = self._max_tokens - self._around
        while room > 0:
            end = self._without_trailing_media(first, self._furthest(first, room))
            if end == first:
                return None
            tokens, tiles = self._measure(first, end)
            if tokens <= self._max_tokens and tiles <= self._max_tiles:
                return end, (tokens, tiles)
            room -= max(1, tokens - self._max_tokens)
        return None

    def _furthest(self, first: int, room: int) -> int:
        """The furthest position to which `room` tokens and the tiles of a pack reach."""
        position, tiles_left, enough = first, self._max_tiles, room // GIVEN_UP
        while (unit := self._unit_at(position)) is not None:
            counted = bisect_right(unit.token_ends, position - unit.first)  # in parts before
            if unit.tokens - counted > room or unit.tiles > tiles_left:
                if not unit.text:
                    return position
                if self._is_for_next(unit, first):
                    return unit.part
                return _cut_inside(unit, position, counted + room, enough)
            room -= unit.tokens - counted
            tiles_left -= unit.tiles
            position = unit.end
        return position

    def _is_for_next(self, unit: Unit, first: int) -> bool:
        """Whether a unit's content part is left whole to the next part, which text precedes."""
        position, has_text = first, False
        while position < unit.part:
            before = self._unit_at(position)
            assert before is not None, "it lies before a unit that is known"
            has_text = has_text or bool(before.text)
            position = before.end
        room, following = self._max_tokens - self._around, self._unit_at(unit.part)
        while following is not None and following.part == unit.part and room >= 0:
            room -= following.tokens
            following = self._unit_at(following.end)
        return has_text and room >= 0

    def _without_trailing_media(self, first: int, end: int) -> int:
        """Leave pictures at the end to the part that has the text after them, if any follows."""
        kept = end
        if self._unit_at(end) is None:
            return end
        while kept > first and (unit := self._unit_at(kept - 1)) is not None and not unit.text:
            kept = unit.first
        return kept if kept > first else end

    def _unit_at(self, position: int) -> Unit | None:
        """The unit that holds a position; None behind the last one."""
        while not self._units or self._units[-1].end <= position:
            unit = next(self._source, None)
            if unit is None:
                return None
            self._units.append(unit)
        return self._units[bisect_right(self._units, position, key=lambda unit: unit.end)]

    def _read_units(self, content: Sequence[Part]) -> Iterator[Unit]:
        position = 0
        for part in content:
            begin = position
            if isinstance(part, TextPart):
                for text in break_text(part.text):
                    ends = self._token_ends(text)
                    yield Unit(begin, position, position + len(text), len(ends), 0, text, ends)
                    position += len(text)
            else:
                tokens, tiles = self._measure(begin, begin + 1)
                yield Unit(begin, begin, begin + 1, tokens - self._around, tiles)
                position += 1


def _cut_inside(unit: Unit, position: int, fitting: int, enough: int) -> int:
    """Where to cut a piece of text of which the first `fitting` tokens fit.

    Args:
        unit: the text.
        position: from which the part takes it.
        fitting: tokens, counted from the unit's beginning.
        enough: tokens that may be given up for a better place.

    Returns:
        A position in the unit; `position` when not even a character fits.
    """
    ends, low = unit.token_ends, position - unit.first
    while fitting and fitting < len(ends) and ends[fitting] == ends[fitting - 1]:
        fitting -= 1  # inside a character
    high = ends[fitting - 1] if fitting else 0
    if high <= low:
        return position
    earliest = max(low, ends[max(fitting - enough, 1) - 1])
    return unit.first + (_line_or_word(unit.text, earliest, high) or high)
