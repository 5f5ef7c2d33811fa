# SPDX-License-Identifier: Apache-2.0
"""The errors a user may meet: each names setting or sample, its value, the rule, the next step."""

from collections.abc import Sequence


class OwlError(Exception):
    """Anything this framework raises on purpose."""


class ConfigError(OwlError):
    """What a user wrote cannot work. Holds every problem found, not just the first."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        lines = [f"  {number}. {problem}" for number, problem in enumerate(self.problems, start=1)]
        count = f"{len(lines)} problem{'s' if len(lines) != 1 else ''}"
        super().__init__("\n".join([f"{count} in the run config:", *lines]))


class UsageError(OwlError):
    """An option on a tool's command line names nothing, or cannot work. Says which, and why."""


class DataError(OwlError):
    """A sample, or the shard around it, is not what it should be.

    Args:
        code: stable code of the rule it breaks, such as "E308" (docs/data_format.md lists them).
        message: value, rule and next step.
        shard: file name of the shard, where known.
        key: key of the sample within the shard, where known.
    """

    def __init__(
        self, code: str, message: str, *, shard: str | None = None, key: str | None = None
    ) -> None:
        self.code, self.message, self.shard, self.key = code, message, shard, key
        where = [f"shard {shard}" if shard else "", f"sample {key!r}" if key else ""]
        super().__init__(": ".join([code, *filter(None, where), message]))


class BatchError(OwlError):
    """A packed batch contradicts itself: offsets, boundaries and tiles do not belong together."""


class CheckpointError(OwlError):
    """A checkpoint cannot be read, or does not belong to this model or this run."""
