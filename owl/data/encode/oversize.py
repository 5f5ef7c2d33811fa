# SPDX-License-Identifier: Apache-2.0
"""Samples that are larger than a pack: fewer frames, leading turns, or a document in several parts.

A sample is only ever shortened where one of its units ends: a question with its answer in a chat, a
content part in a document (a text part of more than UNIT_CHARACTERS counts as several). So no
placeholder is torn, and every answer that is learned is whole. What was cut is an Excerpt: a few
numbers from which the encoder finds the same tokens and tiles again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from owl.config.run import OversizePolicy
from owl.data.shards.schema import Json, frame_range, media_use, part_weight

UNIT_CHARACTERS = 2000
"""Text parts longer than this may be cut inside, after a line's end or before a space."""

NOTHING_FITS = "E403"
NOTHING_LEARNED = "E204"


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Which part of a sample is used."""

    first: int = 0  # unit
    end: int | None = None  # unit; None for all that follow
    frames: int | None = None  # that each clip shows at most, below its source's own limit
    code: str = ""  # E401 or E402: the budget for which the sample was shortened

    def name(self, key: str) -> str:
        """Name an excerpt after the sample it is of."""
        return key if self.end is None else f"{key}[{self.first}:{self.end}]"


@dataclass(frozen=True, slots=True)
class Fitted:
    """An excerpt that keeps both budgets, and how long it is."""

    excerpt: Excerpt
    tokens: int
    tiles: int


def excerpt_document(document: Json, excerpt: Excerpt) -> tuple[Json, slice]:
    """Cut an excerpt out of a document.

    Returns:
        What is left, and which of the whole document's places with media it keeps.
    """
    if excerpt.end is None:
        return document, slice(None)
    head, units = _units(document)
    kept = [*head, *_chained(units[excerpt.first : excerpt.end])]
    is_text = document["kind"] == "document"  # its units are parts of one turn
    turns = [{**document["turns"][0], "content": kept}] if is_text else kept
    left = {**document, "turns": turns}
    before = sum(map(_places, units[: excerpt.first]))
    return left, slice(before, before + len(list(media_use(left))))


def _units(document: Json) -> tuple[list[Json], list[list[Json]]]:
    """What every excerpt keeps (a system turn), and what it may leave out.

    A chat's units are lists of turns, a document's are lists of one content part.
    """
    turns = list(document["turns"])
    if document["kind"] == "document":
        return [], [[part] for part in _small_parts(turns[0]["content"])]
    head = turns[:1] if turns[0]["role"] == "system" else []
    spoken = turns[len(head) :]
    return head, [spoken[first : first + 2] for first in range(0, len(spoken), 2)]


def _small_parts(content: Sequence[Json]) -> Iterator[Json]:
    for part in content:
        if len(part.get("text", "")) <= UNIT_CHARACTERS:
            yield part
        else:
            yield from ({**part, "text": text} for text in break_text(part["text"]))


def break_text(text: str) -> Iterator[str]:
    """Break a long text into pieces that join to it again, at a line's end or a word's, if any."""
    while len(text) > UNIT_CHARACTERS:
        line = text.rfind("\n", 0, UNIT_CHARACTERS) + 1
        # A space belongs to the word after it: the tokenizer reads them as one.
        end = line or text.rfind(" ", 1, UNIT_CHARACTERS)
        end = end if end > 0 else UNIT_CHARACTERS
        yield text[:end]
        text = text[end:]
    if text:
        yield text


def _chained(units: Sequence[list[Json]]) -> Iterator[Json]:
    for unit in units:
        yield from unit


def _places(unit: Sequence[Json]) -> int:
    """Places with media in one unit: turns have contents, parts have media."""
    parts = [part for thing in unit for part in thing.get("content", [thing])]
    return sum(1 for part in parts if "media" in part)


class Shortener:
    """Finds the excerpts of one sample that keep both budgets.

    Args:
        document: of the sample.
        measure: tokens and tiles of an excerpt.
        max_tokens: of a pack.
        max_tiles: of a pack.
        code: E401 or E402, whichever budget the whole sample exceeds.
    """

    def __init__(
        self,
        document: Json,
        measure: Callable[[Excerpt], tuple[int, int]],
        *,
        max_tokens: int,
        max_tiles: int,
        code: str,
    ) -> None:
        self._document, self._measure, self._code = document, measure, code
        self._max_tokens, self._max_tiles = max_tokens, max_tiles
        self._units = _units(document)[1]

    def shorten(self, policy: OversizePolicy) -> tuple[list[Fitted], Counter[str]]:
        """Reduce frames; if that is not enough, cut as the policy says.

        Returns:
            At least one excerpt, or none; and what was lost on the way, by code: E403 once when
            nothing fits, else for each unit that is too long for a pack by itself; E204 for parts
            of a document that would teach nothing.
        """
        whole = Excerpt(code=self._code, frames=self._fewer_frames())
        tokens, tiles = self._measure(whole)
        if self._fits(tokens, tiles):
            return [Fitted(whole, tokens, tiles)], Counter()
        is_split = policy == OversizePolicy.split and self._document["kind"] == "document"
        fitted: list[Fitted] = []
        lost: Counter[str] = Counter()
        for excerpt in self._excerpts(whole):
            if not is_split and fitted:
                break
            if excerpt is None:
                lost[NOTHING_FITS] += 1
            elif self._teaches(excerpt):
                fitted.append(Fitted(excerpt, *self._measure(excerpt)))
            else:
                lost[NOTHING_LEARNED] += 1
                if not is_split:
                    break
        return (fitted, lost) if fitted else ([], Counter([NOTHING_FITS]))

    def _fits(self, tokens: int, tiles: int) -> bool:
        return tokens <= self._max_tokens and tiles <= self._max_tiles

    def _fewer_frames(self) -> int | None:
        """Frames per clip that keep both budgets; else that keep the tiles; else 1."""
        longest = max(self._clip_lengths(), default=0)
        if not longest:
            return None

        def largest(fits: Callable[[int, int], bool]) -> int:
            low, high = 0, longest
            while low < high:
                middle = (low + high + 1) // 2
                if fits(*self._measure(Excerpt(frames=middle))):
                    low = middle
                else:
                    high = middle - 1
            return low

        frames = largest(self._fits) or largest(lambda _, tiles: tiles <= self._max_tiles)
        return max(frames, 1)

    def _clip_lengths(self) -> Iterator[int]:
        for index, part in media_use(self._document):
            media = self._document["media"][index]
            if media["type"] == "frames":
                yield len(frame_range(part, media))

    def _excerpts(self, whole: Excerpt) -> Iterator[Excerpt | None]:
        """Yield excerpts one after the other, each as long as fits; None for a too long unit."""
        lengths = [
            self._measure(replace(whole, first=unit, end=unit + 1))
            for unit in range(len(self._units))
        ]
        first = 0
        while first < len(self._units):
            end = self._furthest(whole, first, lengths)
            if end > first:
                yield replace(whole, first=first, end=end)
            elif first == 0 and self._document["kind"] != "document":
                return  # a chat makes no sense from its second question on
            else:
                yield None
            first = max(end, first + 1)

    def _furthest(self, whole: Excerpt, first: int, lengths: Sequence[tuple[int, int]]) -> int:
        """The last unit before which an excerpt from `first` may end; `first` if none fits.

        A guess from the lengths of the units alone, then corrected by measuring the excerpt itself:
        tokens do not simply add up.
        """

        def fits(end: int) -> bool:
            return self._fits(*self._measure(replace(whole, first=first, end=end)))

        sums = accumulate(lengths[first:], lambda a, b: (a[0] + b[0], a[1] + b[1]))
        end = first + sum(1 for total in sums if self._fits(*total))
        while end < len(lengths) and fits(end + 1):
            end += 1
        while end > first and not fits(end):
            end -= 1
        return self._without_trailing_media(first, end)

    def _without_trailing_media(self, first: int, end: int) -> int:
        """Leave a picture at the end to the excerpt that has the text after it."""
        kept = end
        while end < len(self._units) and kept > first and "media" in self._units[kept - 1][0]:
            kept -= 1
        return kept if kept > first else end

    def _teaches(self, excerpt: Excerpt) -> bool:
        """Whether a token of the excerpt is learned; its first one is never predicted."""
        document, _ = excerpt_document(self._document, excerpt)
        return any(
            part.get("text") and part_weight(turn, part) > 0
            for turn in document["turns"]
            for part in turn["content"]
        )


def choose_frames(frames: range, limit: int | None) -> list[int]:
    """Pick at most `limit` frames, evenly: the middle of each of as many stretches (as published).

    Args:
        frames: those that could be shown.
        limit: None for all.
    """
    if limit is None or len(frames) <= limit:
        return list(frames)
    gap = len(frames) / limit
    return [frames[int(index * gap + gap / 2)] for index in range(limit)]
