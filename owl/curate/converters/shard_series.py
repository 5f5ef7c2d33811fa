# SPDX-License-Identifier: Apache-2.0
"""Write samples into a series of shards of bounded size."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from owl.curate.converters.records import ConvertedSample
from owl.data.shards.dataset import ShardWriter


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """When a shard is full. A sample larger than max_bytes gets a shard of its own."""

    max_samples: int = 2000
    max_bytes: int = 1 << 30


class ShardSeries:
    """Writes `{stem}-000.tar`, `{stem}-001.tar` and so on; each gets its name when complete."""

    def __init__(self, folder: Path, stem: str, limits: ShardLimits) -> None:
        self.paths: list[Path] = []
        self._folder, self._stem, self._limits = folder, stem, limits
        self._writer: ShardWriter | None = None
        self._samples = self._bytes = 0

    def write(self, sample: ConvertedSample) -> None:
        """Append a sample. Raises DataError for the first rule it breaks; nothing is written then.

        Args:
            sample: keys are unique in the series.
        """
        size = sum(len(data) for data in sample.files.values())
        if self._is_full(size):
            self._close()
        writer = self._writer or self._open()
        writer.write(sample.key, sample.document, sample.files)
        self._samples += 1
        self._bytes += size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._close()
        elif self._writer:
            self._writer.__exit__(kind, error, trace)

    def _is_full(self, size: int) -> bool:
        return self._samples > 0 and (
            self._samples >= self._limits.max_samples or self._bytes + size > self._limits.max_bytes
        )

    def _open(self) -> ShardWriter:
        path = self._folder / f"{self._stem}-{len(self.paths):03}.tar"
        self._writer = ShardWriter(path).__enter__()
        self.paths.append(path)
        return self._writer

    def _close(self) -> None:
        if self._writer is None:
            return
        self._writer.__exit__(None, None, None)
        if not self._samples:  # its only samples were invalid
            self.paths.pop().unlink()
        self._writer = None
        self._samples = self._bytes = 0


def drop_shards(folder: Path, stem: str) -> None:
    """Delete the shards of a series from an unfinished run, including temporary files."""
    for path in folder.glob(f"{stem}-[0-9][0-9][0-9].tar*"):
        path.unlink()
