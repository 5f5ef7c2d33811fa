# SPDX-License-Identifier: Apache-2.0
"""Samples that are larger than a pack: fewer frames, leading turns, or a document in several parts.

A chat is only shortened where an answer ends, so every answer that is learned is complete. A
document is cut between two tokens (owl.data.encode.cuts), and never inside what shows a picture.
What is left is an Excerpt: a few numbers from which the encoder finds the same tokens and tiles
again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, takewhile

from owl.config.run import OversizePolicy
from owl.data.encode.cuts import DocumentCuts, Measured, slice_content
from owl.data.shards.document import Document, FramesMedia, Turn

CUTS_VERSION = 2
"""Raised when the same sample would be cut elsewhere: part of the cursor's fingerprint."""

NOTHING_FITS = "E403"
NOTHING_LEARNED = "E204"


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Which part of a sample is used.

    A chat is counted in questions with their answers, a document in characters, where a place with
    media counts as one.
    """

    first: int = 0
    end: int | None = None  # None for all that follows
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
    if document.kind == "document":
        (turn,) = document.turns
        content, kept = slice_content(turn.content, excerpt.first, excerpt.end)
        return replace(document, turns=[turn._replace(content=content)]), kept
    head, rounds = _rounds(document)
    left = replace(
        document, turns=[*head, *chain.from_iterable(rounds[excerpt.first : excerpt.end])]
    )
    before = replace(document, turns=[*chain.from_iterable(rounds[: excerpt.first])])
    first = len(before.places)
    return left, slice(first, first + len(left.places))


def _rounds(document: Document) -> tuple[Sequence[Turn], list[Sequence[Turn]]]:
    """What every excerpt of a chat keeps (a system turn), and its questions with their answers."""
    head = document.turns[:1] if document.turns[0].role == "system" else []
    others = document.turns[len(head) :]
    return head, [others[first : first + 2] for first in range(0, len(others), 2)]


class Shortener:
    """Finds the excerpts of one sample that keep both budgets.

    Args:
        document: of the sample.
        measure: tokens and tiles of an excerpt.
        token_ends: for each token of a text, the characters up to its end; never decreasing.
        max_tokens: of a pack.
        max_tiles: of a pack.
        code: E401 or E402, whichever budget the complete sample exceeds.
    """

    def __init__(
        self,
        document: Document,
        measure: Callable[[Excerpt], Measured],
        token_ends: Callable[[str], Sequence[int]],
        *,
        max_tokens: int,
        max_tiles: int,
        code: str,
    ) -> None:
        self._document, self._code = document, code
        self._measure, self._token_ends = measure, token_ends
        self._max_tokens, self._max_tiles = max_tokens, max_tiles

    def shorten(self, policy: OversizePolicy) -> tuple[list[Fitted], Counter[str]]:
        """Reduce frames; if that is not enough, cut as the policy says.

        Returns:
            At least one excerpt, or none; and what was lost on the way, by code: E403 once when
            nothing fits, else for each part that is too large for a pack by itself; E204 for parts
            of a document that would teach nothing.
        """
        complete = Excerpt(code=self._code, frames=self._fewer_frames())
        if complete.frames is not None:
            size = self._measure(complete)
            if self._fits(*size):
                return [Fitted(complete, *size)], Counter()
        is_document = self._document.kind == "document"
        is_split = policy == OversizePolicy.split and is_document
        fitted: list[Fitted] = []
        lost: Counter[str] = Counter()
        for part in self._cut_document(complete) if is_document else self._cut_chat(complete):
            if part is None:
                lost[NOTHING_FITS] += 1
            elif self._teaches(part.excerpt):
                fitted.append(part)
            else:
                lost[NOTHING_LEARNED] += 1
            if part is not None and not is_split:
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

    def _cut_document(self, complete: Excerpt) -> Iterator[Fitted | None]:
        """Yield parts of a document one after the other; None for a place that no pack holds."""
        cuts = DocumentCuts(
            self._document.turns[0].content,
            lambda first, end: self._measure(replace(complete, first=first, end=end)),
            self._token_ends,
            max_tokens=self._max_tokens,
            max_tiles=self._max_tiles,
        )
        for part in cuts.parts():
            if part is None:
                yield None
            else:
                first, end, size = part
                yield Fitted(replace(complete, first=first, end=end), *size)

    def _cut_chat(self, complete: Excerpt) -> Iterator[Fitted]:
        """Yield the longest beginning of a chat that fits, if any does.

        A guess from the lengths of its rounds alone, then corrected by measuring the beginning
        itself: tokens do not simply add up.
        """

        def size(first: int, end: int) -> Measured:
            return self._measure(replace(complete, first=first, end=end))

        count = len(_rounds(self._document)[1])
        alone = (size(number, number + 1) for number in range(count))
        sums = accumulate(alone, lambda a, b: (a[0] + b[0], a[1] + b[1]))
        end = sum(1 for _ in takewhile(lambda total: self._fits(*total), sums))
        while end < count and self._fits(*size(0, end + 1)):
            end += 1
        while end and not self._fits(*size(0, end)):
            end -= 1
        if end:
            yield Fitted(replace(complete, first=0, end=end), *size(0, end))

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
