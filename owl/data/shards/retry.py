# SPDX-License-Identifier: Apache-2.0
"""Reads that fail on their way are tried again, with growing pauses, before they end the run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from owl.data.shards.storage import Storage

READ_ATTEMPTS = 3
RETRY_SECONDS = 0.5

Result = TypeVar("Result")


@dataclass(slots=True)
class Retry:
    """How often to try, and how often that was needed."""

    attempts: int = READ_ATTEMPTS
    count: int = 0  # reads that were repeated

    def pause(self, attempt: int, storage: Storage, file: str) -> None:
        """Wait before an attempt, counted from 1 for the second; then open the file anew."""
        self.count += 1
        storage.release(file)
        time.sleep(RETRY_SECONDS * 2 ** (attempt - 1))

    def call(self, read: Callable[[], Result], storage: Storage, file: str) -> Result:
        """Read what is needed of a file.

        Args:
            read: does it.
            storage: where the file lies.
            file: named when no attempt succeeds.

        Raises:
            OSError: of the last attempt.
        """
        failure = OSError("never tried")
        for attempt in range(self.attempts):
            if attempt:
                self.pause(attempt, storage, file)
            try:
                return read()
            except OSError as error:
                failure = error
        raise OSError(
            failure.errno,
            f"{file} of {storage.location} could not be read in {self.attempts} attempts: "
            f"{failure}. Check the file system, then resume.",
        ) from failure

    def whole(self, storage: Storage, file: str) -> bytes | None:
        """Read a whole file; None when there is no such file. Raises OSError like call."""
        return self.call(lambda: storage.read(file), storage, file)
