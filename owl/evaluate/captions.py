# SPDX-License-Identifier: Apache-2.0
"""CIDEr-D, the score of captions (Vedantam et al., arXiv 1411.5726), as pycocoevalcap computes it.

That package needs Java, and only for its tokenizer. Here words are found by the pattern below,
which follows the Penn Treebank's rules for contractions and hyphens; given the same words, scores
are equal.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

LONGEST = 4
"""Longest n-gram that is compared."""
SIGMA = 6.0
"""Width of the penalty for a length that differs, in pairs of words."""

_WORDS = re.compile(r"\w+(?=n't\b)|n't\b|'\w+|[$£€]|\w+(?:[-.,/]\w+)*")

Gram = tuple[str, ...]
Weights = list[dict[Gram, float]]


def words_of(caption: str) -> list[str]:
    """Split a caption into words in lower case, without punctuation."""
    return _WORDS.findall(caption.lower().replace("\u2019", "'"))


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Score captions; a mean of 1.37 is what tables print as 137.

    Args:
        captions: n, of the model.
        references: [n] lists of captions by people. How much a phrase counts depends on how few of
            the n lists contain it.

    Returns:
        n scores from 0 to 10.
    """
    counted = [[_count(text) for text in texts] for texts in references]
    found = Counter(gram for texts in counted for gram in set().union(*texts))
    scale = math.log(len(references)) if references else 0.0

    def weigh(counts: Counter[Gram]) -> Weights:
        weights: Weights = [{} for _ in range(LONGEST)]
        for gram, count in counts.items():
            weights[len(gram) - 1][gram] = count * (scale - math.log(max(1, found[gram])))
        return weights

    scores = []
    for caption, texts in zip(captions, counted, strict=True):
        counts = _count(caption)
        similar = [_similarity(weigh(counts), weigh(text), counts, text) for text in texts]
        scores.append(10 * sum(similar) / max(1, len(similar)))
    return scores


def _count(text: str) -> Counter[Gram]:
    words = words_of(text)
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(words) - length + 1)
    )


def _similarity(one: Weights, other: Weights, counts: Counter[Gram], text: Counter[Gram]) -> float:
    """Return the mean over n of the clipped cosine, less for another length."""
    difference = _pairs(counts) - _pairs(text)
    total = 0.0
    for mine, theirs in zip(one, other, strict=True):
        product = sum(
            min(weight, theirs[gram]) * theirs[gram]
            for gram, weight in mine.items()
            if gram in theirs
        )
        norms = math.hypot(*mine.values()) * math.hypot(*theirs.values())
        total += product / norms if norms else 0.0
    return total / LONGEST * math.exp(-(difference**2) / (2 * SIGMA**2))


def _pairs(counts: Counter[Gram]) -> int:
    """Count a text's pairs of words, which is how the published code measures length."""
    return sum(count for gram, count in counts.items() if len(gram) == 2)
