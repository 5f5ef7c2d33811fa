# SPDX-License-Identifier: Apache-2.0
"""The report of lint on a folder: shards, samples and their problems."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from owl.data.shards.schema import SampleProblem


@dataclass(frozen=True, slots=True)
class ShardProblem:
    """A problem of a shard or folder, rather than of one sample."""

    code: str
    message: str
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that cannot be used, and every reason."""

    key: str | None  # None: its name is unreadable
    offset: int | None  # of its first header, in bytes; None: the shard is missing
    problems: Sequence[SampleProblem]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """One shard: every sample is either good or listed in `bad`."""

    file: str
    samples: int
    bad: Sequence[BadSample] = ()
    problems: Sequence[ShardProblem] = ()

    @property
    def good(self) -> int:
        """Number of samples without a problem of their own."""
        return self.samples - len(self.bad)

    @property
    def is_clean(self) -> bool:
        """Whether no problem was found."""
        return not self.bad and not self.problems

    @property
    def is_broken(self) -> bool:
        """Whether the tar itself is damaged, so that preparing leaves the entire shard out."""
        return any("E101" <= code <= "E108" for code in self.codes())

    def codes(self) -> Counter[str]:
        """Number of problems by code; a sample counts once for each of its codes."""
        total = Counter(problem.code for problem in self.problems)
        for sample in self.bad:
            total.update({problem.code for problem in sample.problems})
        return total

    def describe(self) -> dict[str, Any]:
        """Return plain values for json."""
        return {
            "file": self.file,
            "samples": self.samples,
            "good": self.good,
            "left_out": self.is_broken,
            "bad": [
                {
                    "key": sample.key,
                    "offset": sample.offset,
                    "problems": [{"code": p.code, "message": p.message} for p in sample.problems],
                }
                for sample in self.bad
            ],
            "problems": [
                {"code": p.code, "message": p.message, "offset": p.offset} for p in self.problems
            ],
        }


@dataclass(frozen=True, slots=True)
class FolderReport:
    """All shards of a folder."""

    folder: Path
    shards: Sequence[ShardReport]
    problems: Sequence[ShardProblem] = field(default_factory=list)

    @property
    def samples(self) -> int:
        """Number of samples of all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def good(self) -> int:
        """Number of samples without a problem."""
        return sum(shard.good for shard in self.shards)

    @property
    def is_clean(self) -> bool:
        """Whether no problem was found."""
        return not self.problems and all(shard.is_clean for shard in self.shards)

    def codes(self) -> Counter[str]:
        """Number of problems by code."""
        total = Counter(problem.code for problem in self.problems)
        for shard in self.shards:
            total.update(shard.codes())
        return total

    def describe(self) -> dict[str, Any]:
        """Return plain values for json."""
        return {
            "schema": "owl3-lint/1",
            "folder": str(self.folder),
            "samples": self.samples,
            "good": self.good,
            "bad": self.samples - self.good,
            "codes": dict(sorted(self.codes().items())),
            "problems": [{"code": p.code, "message": p.message} for p in self.problems],
            "shards": [shard.describe() for shard in self.shards],
        }
