# SPDX-License-Identifier: Apache-2.0
"""Write a run's numbers: to metrics.jsonl always, to TensorBoard and wandb on request."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from owl.config.run import LogConfig
from owl.errors import ConfigError

METRICS_FILE = "metrics.jsonl"


class MetricsWriter(Protocol):
    """Records the numbers of each step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the numbers of one step."""

    def close(self) -> None:
        """Flush and close; nothing is written afterwards."""


def build_writers(log: LogConfig, folder: Path, resumed_step: int) -> list[MetricsWriter]:
    """Build the writers that a run asks for. Call it on one rank only.

    Args:
        log: which writers.
        folder: the run folder.
        resumed_step: the step of the checkpoint that training resumes from, 0 for a new run. What
            an earlier, killed process wrote about later steps is removed: they are run again.

    Raises:
        ConfigError: a package that a writer needs is not installed.
    """
    writers: list[MetricsWriter] = [JsonlWriter(folder / METRICS_FILE, resumed_step)]
    if log.tensorboard:
        writers.append(TensorBoardWriter(folder / "tensorboard", resumed_step))
    if log.wandb:
        writers.append(WandbWriter(log, folder))
    return writers


class JsonlWriter:
    """One JSON object a line; floats in full precision, so that runs compare bit for bit."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep_lines_up_to(path, resumed_step)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line and flush it, so that a killed run keeps it."""
        line = {"step": step, **{name: _finite(value) for name, value in values.items()}}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardWriter:
    """Scalars for TensorBoard."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(_missing("log.tensorboard", "tensorboard")) from error
        # purge_step hides what a killed process wrote about steps that are run again.
        self._writer: Any = SummaryWriter(str(folder), purge_step=resumed_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record each number as a scalar."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WandbWriter:
    """Weights & Biases; offline by default. A resumed run keeps its id."""

    def __init__(self, log: LogConfig, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(_missing("log.wandb", "wandb")) from error
        id_file = folder / "wandb_id.txt"
        folder.mkdir(parents=True, exist_ok=True)
        known = id_file.read_text().strip() if id_file.is_file() else None
        self._run: Any = wandb.init(
            project=log.wandb_project,
            mode=log.wandb_mode.value,
            dir=str(folder),
            id=known,
            resume="allow",
        )
        id_file.write_text(str(self._run.id))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers; wandb itself ignores steps that it already has."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run, so that offline files are complete."""
        self._run.finish()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl back, step by step; an unfinished last line is left out."""
    return [line for _, line in _complete_lines(path)]


def _keep_lines_up_to(path: Path, step: int) -> None:
    """Remove later steps, and the unfinished line of a killed writer."""
    if not path.is_file():
        return
    kept = [text for text, line in _complete_lines(path) if line.get("step", 0) <= step]
    scratch = path.with_suffix(".jsonl.part")
    scratch.write_text("".join(kept), encoding="utf-8")
    os.replace(scratch, path)  # atomic: a process killed here loses nothing


def _complete_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if text.endswith("\n"):
            yield text, json.loads(text)


def _finite(value: float) -> float | None:
    """Replace NaN and infinity, which JSON does not have, by null."""
    return value if math.isfinite(value) else None


def _missing(setting: str, package: str) -> str:
    return (
        f"{setting}=true needs the package {package}, which is not installed. "
        f"Run pip install -e '.[logging]', or set {setting}=false."
    )
