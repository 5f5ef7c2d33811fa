# SPDX-License-Identifier: Apache-2.0
"""The folder of an evaluation: predictions.jsonl, a line a question, appended as they are made."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from owl.errors import OwlError

PREDICTIONS_FILE = "predictions.jsonl"
SETTINGS_FILE = "settings.json"
RESULTS_FILE = "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One line."""

    id: str
    question: str  # as it was asked
    images: Sequence[str]
    answer: str  # "" where there is an error
    answers: Sequence[str]  # references
    error: str | None = None  # why the question could not be asked


class PredictionFolder:
    """Reads what an earlier process answered, and appends.

    Args:
        path: the folder.
        settings: what answers depend on; those of an earlier process must be equal.
        replace: remove its answers.

    Raises:
        OwlError: the folder holds answers of other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, replace: bool) -> None:
        self.path, self._file = path, path / PREDICTIONS_FILE
        path.mkdir(parents=True, exist_ok=True)
        stored = path / SETTINGS_FILE
        if replace:
            self._file.unlink(missing_ok=True)
        elif self._file.is_file() and stored.is_file():
            _check_equal(path, json.loads(stored.read_text(encoding="utf-8")), settings)
        stored.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        self._drop_unfinished_line()

    def read(self) -> list[Prediction]:
        """Read the answers so far."""
        if not self._file.is_file():
            return []
        lines = self._file.read_text(encoding="utf-8").splitlines()
        return [Prediction(**json.loads(line)) for line in lines]

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Append lines, and flush them to the disk."""
        with self._file.open("a", encoding="utf-8") as file:
            for prediction in predictions:
                file.write(json.dumps(asdict(prediction), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json."""
        text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
        (self.path / RESULTS_FILE).write_text(text, encoding="utf-8")

    def _drop_unfinished_line(self) -> None:
        """Remove the part of a line that a killed process left."""
        if self._file.is_file():
            content = self._file.read_bytes()
            complete = content.rfind(b"\n") + 1
            if complete < len(content):
                os.truncate(self._file, complete)


def _check_equal(path: Path, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    differences = [
        f"{name}: {stored.get(name)!r} there, {settings.get(name)!r} now"
        for name in {**stored, **settings}
        if stored.get(name) != settings.get(name)
    ]
    if differences:
        raise OwlError(
            f"--output {path} holds answers of another evaluation ({'; '.join(differences)}). "
            "Name another folder, or remove those answers with --replace."
        )
