# SPDX-License-Identifier: Apache-2.0
"""The accuracy of visual question answering, by the rules of VQA (visualqa.org/evaluation).

The rules, word list included, are those of the published `vqaEval.py`, which leaves answers as they
are where all annotators wrote the same; here every answer is normalised.
"""

import re
from collections.abc import Iterator, Sequence

ANNOTATORS = 10
"""From so many answers on, one counts as much as annotators agree with it."""
AGREEING = 3
"""Annotators who make an answer fully right."""

_PUNCTUATION = (
    *(";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-"),
    *(">", "<", "@", "`", ",", "?", "!"),
)
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}

_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _without_one_apostrophe() -> Iterator[tuple[str, str]]:
    """Yield each contraction that lacks one apostrophe, and the complete one."""
    for word in _CONTRACTIONS.split():
        for place, letter in enumerate(word):
            if letter == "'":
                yield word[:place] + word[place + 1 :], word
    yield "somebody'd", "somebodyd"  # published the wrong way round


_COMPLETE = dict(_without_one_apostrophe())


def normalise(answer: str) -> str:
    """Return an answer in lower case without punctuation and articles, numbers as digits."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    words = _without_punctuation(text).lower().split()
    words = [_DIGITS.get(word, word) for word in words]
    return " ".join(_COMPLETE.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    """Remove marks next to a space, and all where a number has a comma; others become spaces."""
    has_number = _COMMA_IN_NUMBER.search(text) is not None
    changed = text
    for mark in _PUNCTUATION:
        is_loose = f"{mark} " in text or f" {mark}" in text
        changed = changed.replace(mark, "" if is_loose or has_number else " ")
    return _PERIOD.sub("", changed)


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """Score an answer from 0 to 1.

    With ten or more annotators: the mean over all groups that leave one of them out, of the number
    in the group who gave this answer over 3, at most 1. With fewer: 1 if anyone gave it.

    Args:
        answer: of the model.
        answers: of the annotators.
    """
    given, normalised = normalise(answer), [normalise(text) for text in answers]
    if len(answers) < ANNOTATORS:
        return float(given in normalised)
    agreeing = normalised.count(given)
    groups = [agreeing - (text == given) for text in normalised]
    return sum(min(1.0, count / AGREEING) for count in groups) / len(groups)
