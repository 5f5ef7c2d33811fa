# SPDX-License-Identifier: Apache-2.0
"""The account that lint gives of a folder: shards, samples, and what is wrong with them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from owl.data.shards.schema import SampleProblem


@dataclass(frozen=True, slots=True)
class ShardProblem:
    """A fault of the shard as a whole."""

    code: str
    message: str
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that cannot be used, and every reason for that."""

    key: str | None  # None: its name cannot be read
    offset: int | None  # byte of its first header; None: the shard itself is gone
    problems: Sequence[SampleProblem]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """Every sample of one shard is either good or named in `bad`."""

    file: str
    samples: int
    bad: Sequence[BadSample] = ()
    problems: Sequence[ShardProblem] = ()

    @property
    def good(self) -> int:
        """Samples without a fault of their own."""
        return self.samples - len(self.bad)

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to say."""
        return not self.bad and not self.problems

    @property
    def is_broken(self) -> bool:
        """Whether the tar itself is at fault, so that prepare.py leaves the whole shard out."""
        return any("E101" <= code <= "E108" for code in self.codes())

    def codes(self) -> Counter[str]:
        """Samples and shard faults by code; a sample counts once for each of its codes."""
        total = Counter(problem.code for problem in self.problems)
        for sample in self.bad:
            total.update({problem.code for problem in sample.problems})
        return total

    def describe(self) -> dict[str, Any]:
        """Plain values for json."""
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
    """The account of a whole folder."""

    folder: Path
    shards: Sequence[ShardReport]
    problems: Sequence[ShardProblem] = field(default_factory=list)

    @property
    def samples(self) -> int:
        """Samples of all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def good(self) -> int:
        """Samples without a fault."""
        return sum(shard.good for shard in self.shards)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.problems and all(shard.is_clean for shard in self.shards)

    def codes(self) -> Counter[str]:
        """What was found, by code."""
        total = Counter(problem.code for problem in self.problems)
        for shard in self.shards:
            total.update(shard.codes())
        return total

    def describe(self) -> dict[str, Any]:
        """Plain values for json."""
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
