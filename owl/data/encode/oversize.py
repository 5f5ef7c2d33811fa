# SPDX-License-Identifier: Apache-2.0
"""Samples that are larger than a pack: fewer frames, leading turns, or a document in several parts.

A sample is only ever shortened where one of its units ends: a question with its answer in a chat, a
content part in a document (a text part of more than UNIT_CHARACTERS counts as several). So no
placeholder is split, and every answer that is learned is complete. What is left is an Excerpt: a
few numbers from which the encoder finds the same tokens and tiles again.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

from owl.config.run import OversizePolicy
from owl.data.shards.document import Document, FramesMedia, MediaPart, Part, TextPart, Turn

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


def excerpt_document(document: Document, excerpt: Excerpt) -> tuple[Document, slice]:
    """Cut an excerpt out of a document.

    Returns:
        What is left, and which of the complete document's places with media it keeps.
    """
    if excerpt.end is None:
        return document, slice(None)
    head, units = _units(document)
    kept = [*head, *chain.from_iterable(units[excerpt.first : excerpt.end])]
    if document.kind == "document":  # its units are parts of one turn
        kept = [kept[0]._replace(content=[part for turn in kept for part in turn.content])]
    left = replace(document, turns=kept)
    before = len(replace(document, turns=[*chain.from_iterable(units[: excerpt.first])]).places)
    return left, slice(before, before + len(left.places))


def _units(document: Document) -> tuple[Sequence[Turn], list[Sequence[Turn]]]:
    """What every excerpt keeps (a system turn), and what it may leave out.

    A chat's units are a question and its answer; a document's are turns of one content part.
    """
    if document.kind == "document":
        (turn,) = document.turns
        return [], [[turn._replace(content=[part])] for part in _small_parts(turn.content)]
    head = document.turns[:1] if document.turns[0].role == "system" else []
    others = document.turns[len(head) :]
    return head, [others[first : first + 2] for first in range(0, len(others), 2)]


def _small_parts(content: Iterable[Part]) -> Iterator[Part]:
    for part in content:
        if isinstance(part, TextPart) and len(part.text) > UNIT_CHARACTERS:
            yield from (part._replace(text=text) for text in break_text(part.text))
        else:
            yield part


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


class Shortener:
    """Finds the excerpts of one sample that keep both budgets.

    Args:
        document: of the sample.
        measure: tokens and tiles of an excerpt.
        max_tokens: of a pack.
        max_tiles: of a pack.
        code: E401 or E402, whichever budget the complete sample exceeds.
    """

    def __init__(
        self,
        document: Document,
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
        complete = Excerpt(code=self._code, frames=self._fewer_frames())
        tokens, tiles = self._measure(complete)
        if self._fits(tokens, tiles):
            return [Fitted(complete, tokens, tiles)], Counter()
        is_split = policy == OversizePolicy.split and self._document.kind == "document"
        fitted: list[Fitted] = []
        lost: Counter[str] = Counter()
        for excerpt in self._excerpts(complete):
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
        for part in self._document.places:
            media = self._document.media[part.media]
            if isinstance(media, FramesMedia):
                yield len(part.frame_range(media))

    def _excerpts(self, complete: Excerpt) -> Iterator[Excerpt | None]:
        """Yield excerpts one after the other, each as long as fits; None for a too long unit."""
        lengths = [
            self._measure(replace(complete, first=unit, end=unit + 1))
            for unit in range(len(self._units))
        ]
        first = 0
        while first < len(self._units):
            end = self._furthest(complete, first, lengths)
            if end > first:
                yield replace(complete, first=first, end=end)
            elif first == 0 and self._document.kind != "document":
                return  # a chat without its first question makes no sense
            else:
                yield None
            first = max(end, first + 1)

    def _furthest(self, complete: Excerpt, first: int, lengths: Sequence[tuple[int, int]]) -> int:
        """The last unit before which an excerpt from `first` may end; `first` if none fits.

        A guess from the lengths of the units alone, then corrected by measuring the excerpt itself:
        tokens do not simply add up.
        """

        def fits(end: int) -> bool:
            return self._fits(*self._measure(replace(complete, first=first, end=end)))

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
        while end < len(self._units) and kept > first and self._is_media(kept - 1):
            kept -= 1
        return kept if kept > first else end

    def _is_media(self, unit: int) -> bool:
        """Whether a unit of a document is a picture or a clip."""
        is_part = self._document.kind == "document"
        return is_part and isinstance(self._units[unit][0].content[0], MediaPart)

    def _teaches(self, excerpt: Excerpt) -> bool:
        """Whether a token of the excerpt is learned; its first one is never predicted."""
        document, _ = excerpt_document(self._document, excerpt)
        return any(turn.is_learned for turn in document.turns)


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
