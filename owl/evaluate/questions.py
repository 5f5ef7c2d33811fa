# SPDX-License-Identifier: Apache-2.0
"""Questions to evaluate a model with: a jsonl file, one record a line (docs/evaluation.md)."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owl.data.samples import RawSample
from owl.data.shards.document import Document, ImageMedia, MediaPart, Part, TextPart, Turn
from owl.errors import OwlError

MARK = "<image>"
"""In a question: the place of its next picture. Without any, pictures precede the question."""
PROBLEMS_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One record."""

    id: str
    text: str  # "" only where a metric has a question of its own
    images: Sequence[Path] = ()
    answers: Sequence[str] = ()  # references; empty where there are none
    options: Sequence[str] = ()
    category: str = ""
    pair: str = ""  # questions of one pair have to be right together

    def sample(self, asked: str) -> RawSample:
        """Read the pictures, and write the question as the sample that asks it.

        Args:
            asked: its text as the metric asks it.

        Raises:
            OSError: a picture cannot be read.
        """
        names = [f"m{place:04}{path.suffix.lower()}" for place, path in enumerate(self.images)]
        files = dict(zip(names, (path.read_bytes() for path in self.images), strict=True))
        parts = list(_parts(asked, len(names)))
        media = [ImageMedia(name) for name in names]
        document = Document("chat", media, [Turn("user", parts)])
        return RawSample(key=self.id, shard="", document=document, files=files)


def read_questions(path: Path, images: Path | None = None) -> list[Question]:
    """Read a jsonl file, or the questions.jsonl of a folder.

    Args:
        path: file or folder.
        images: folder of the pictures; by default the file's, and `images` beside the file.

    Raises:
        OwlError: a line is no question; the first ten problems at once.
    """
    path = path / "questions.jsonl" if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OwlError(f"--data {path} cannot be read: {error}. Name a jsonl file.") from error
    questions, problems = [], []
    folders = [images] if images else [path.parent, path.parent / "images"]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            questions.append(_question(json.loads(line), str(number), folders))
        except ValueError as error:  # JSONDecodeError is one
            problems.append(f"{path} line {number}: {error}")
    counts = Counter(question.id for question in questions)
    problems += [f"{path}: id {name!r} has {n} lines" for name, n in counts.items() if n > 1]
    if not questions and not problems:
        problems = [f"{path} is empty"]
    if problems:
        left = len(problems) - PROBLEMS_SHOWN
        more = [f"and {left} more"] if left > 0 else []
        raise OwlError("\n".join([*problems[:PROBLEMS_SHOWN], *more, _FIELDS]))
    return questions


_FIELDS = (
    'A line is an object such as {"id": "7", "image": "a.jpg", "question": "What is it?", '
    '"answers": ["an owl"]}; docs/evaluation.md lists the fields.'
)


def _question(record: Any, number: str, folders: Sequence[Path]) -> Question:
    """Read one record. Raises ValueError with what is wrong."""
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}, not an object.")
    named = _first(record, ("images", "image"), [])
    names = named if isinstance(named, list) else [named]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"image={named!r} must be a path, or images a list of them.")
    text = _first(record, ("question", "prompt", "text"), "")
    if not isinstance(text, str):
        raise ValueError(f"question={text!r} must be text.")
    if MARK in text and text.count(MARK) != len(names):
        raise ValueError(f"question has {text.count(MARK)} {MARK} for {len(names)} picture(s).")
    category = record.get("category", "")
    return Question(
        id=str(_first(record, ("id", "question_id"), number)),
        text=text,
        images=[_find(name, folders) for name in names],
        answers=list(_answers(_first(record, ("answers", "answer"), []))),
        options=list(_options(_first(record, ("options", "choices"), []))),
        category=", ".join(map(str, category)) if isinstance(category, list) else str(category),
        pair=str(record.get("pair", " ".join(names))),
    )


def _first(record: Mapping[str, Any], fields: Sequence[str], default: Any) -> Any:
    return next((record[name] for name in fields if record.get(name) is not None), default)


def _answers(value: Any) -> Iterator[str]:
    """Yield references: texts or numbers, or VQA's {"answer": text}."""
    for answer in value if isinstance(value, list) else [value]:
        text = answer.get("answer") if isinstance(answer, dict) else answer
        if isinstance(text, bool) or not isinstance(text, str | int | float):
            raise ValueError(f"answers={value!r} must be texts.")
        yield str(text)


def _options(value: Any) -> Iterator[str]:
    """Yield options: a list, or {"A": text, "B": text}."""
    if isinstance(value, dict):
        value = [text for _, text in sorted(value.items())]
    if not isinstance(value, list) or len(value) > 26:
        raise ValueError(f"options={value!r} must be a list of at most 26 texts.")
    yield from map(str, value)


def _find(name: str, folders: Sequence[Path]) -> Path:
    """Return where a picture is; a missing one is reported when it is asked about."""
    places = [folder / name for folder in folders]
    return next((place for place in places if place.is_file()), places[0])


def _parts(text: str, pictures: int) -> Iterator[Part]:
    """Yield text and pictures in the order in which the question shows them."""
    pieces = text.split(MARK) if MARK in text else [*[""] * pictures, text]
    for place, piece in enumerate(pieces):
        if piece:
            yield TextPart(piece)
        if place < pictures:
            yield MediaPart(place)
