# SPDX-License-Identifier: Apache-2.0
"""Notes of a conversion: what became of each batch, and the files that it was made of."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from owl.curate.converters.records import ConvertedSample, Reject
from owl.curate.converters.sources.source import Batch
from owl.data.shards.index import replace_file

NOTES = ".convert"
PICTURES = ".pictures"
"""Suffix of the list of files that a batch was made of, beside its note."""


@dataclass(frozen=True, slots=True)
class BatchNote:
    """What became of a batch."""

    stem: str
    fingerprint: str
    shards: list[tuple[str, int]]  # name, bytes
    samples: int
    rejects: list[Reject]
    pictures: int = 0
    """Pictures and clips that samples show."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Code -> pictures that documents are written without."""
    bare: int = 0
    """Documents that have no picture left."""
    layouts: dict[str, int] = field(default_factory=dict)
    """Layout -> samples that were read as it."""


def load_notes(output: Path) -> dict[str, BatchNote]:
    """Return the notes of an output folder by the stems of their batches."""
    notes = [_load_note(path) for path in sorted((output / NOTES).glob("*.json"))]
    return {note.stem: note for note in notes}


def _load_note(path: Path) -> BatchNote:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["rejects"] = [Reject(**reject) for reject in content["rejects"]]
    if isinstance(content["left_out"], int):  # of an earlier version
        content["left_out"] = {"E302": content["left_out"]} if content["left_out"] else {}
    content["shards"] = [(name, size) for name, size in content["shards"]]
    return BatchNote(**content)


def save_note(output: Path, note: BatchNote) -> None:
    """Save a note, completely or not at all."""
    replace_file(note_path(output, note.stem), json.dumps(asdict(note)).encode())


def save_pictures(output: Path, stem: str, written: Sequence[ConvertedSample]) -> None:
    """Keep size and time of the files that a batch was made of: they may be replaced later."""
    sources = {path: found for sample in written for path, found in sample.sources.items()}
    content = json.dumps(sources).encode() if sources else b""
    path = note_path(output, stem).with_suffix(PICTURES)
    if content:
        replace_file(path, content)
    else:
        path.unlink(missing_ok=True)


def _has_changed_pictures(output: Path, stem: str) -> bool:
    """Whether a file that a batch was made of is another one now, or gone."""
    path = note_path(output, stem).with_suffix(PICTURES)
    sources = json.loads(path.read_bytes()) if path.is_file() else {}
    return any(_stat_of(Path(name)) != tuple(found) for name, found in sources.items())


def _stat_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def note_path(output: Path, stem: str) -> Path:
    """Where the note of a batch is."""
    return output / NOTES / f"{stem}.json"


def is_current(note: BatchNote, batch: Batch, output: Path, retry_rejects: bool) -> bool:
    """Whether a batch need not be converted again."""
    if note.fingerprint != batch.fingerprint:
        return False
    if retry_rejects and (note.rejects or note.left_out):
        return False
    paths = [(output / name, size) for name, size in note.shards]
    if not all(path.is_file() and path.stat().st_size == size for path, size in paths):
        return False
    return not _has_changed_pictures(output, batch.stem)
