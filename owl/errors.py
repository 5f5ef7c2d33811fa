# SPDX-License-Identifier: Apache-2.0
"""Errors for users: a message has the setting or sample, its value, the rule and the next step."""

from collections.abc import Sequence


class OwlError(Exception):
    """Base class of all errors that this framework raises."""


class ConfigError(OwlError):
    """Settings that cannot work. Holds every problem found, not just the first."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        lines = [f"  {number}. {problem}" for number, problem in enumerate(self.problems, start=1)]
        count = f"{len(lines)} problem{'s' if len(lines) != 1 else ''}"
        super().__init__("\n".join([f"{count} in the run config:", *lines]))


class UsageError(OwlError):
    """An option on a tool's command line that names nothing, or cannot work."""


class DataError(OwlError):
    """A sample, or its shard, breaks a rule of the format.

    Args:
        code: the rule's stable error code, such as "E308" (docs/data_format.md lists them).
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
    """A packed batch is inconsistent: its offsets, boundaries and tiles do not match."""


class CheckpointError(OwlError):
    """A checkpoint cannot be read, or does not belong to this model or this run."""
