# SPDX-License-Identifier: Apache-2.0
"""Repeat reads that failed, with growing pauses, before they end the run."""

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
    """How often to try a read, and how often a read was repeated."""

    attempts: int = READ_ATTEMPTS
    count: int = 0  # reads that were repeated

    def pause(self, attempt: int, storage: Storage, file: str) -> None:
        """Wait before the next attempt, which opens the file again.

        Args:
            attempt: attempts so far; the pause doubles with each.
            storage: closes the file.
            file: that could not be read.
        """
        self.count += 1
        storage.release(file)
        time.sleep(RETRY_SECONDS * 2 ** (attempt - 1))

    def call(self, read: Callable[[], Result], storage: Storage, file: str) -> Result:
        """Call `read`, again if it raises OSError.

        Args:
            read: reads what is needed of a file.
            storage: where the file is.
            file: for the message.

        Raises:
            OSError: of the last attempt.
        """
        attempt = 1
        while True:
            try:
                return read()
            except OSError as error:
                if attempt >= self.attempts:
                    raise OSError(
                        error.errno,
                        f"{file} of {storage.location} could not be read in {attempt} attempts: "
                        f"{error}. Check the file system, then resume.",
                    ) from error
            self.pause(attempt, storage, file)
            attempt += 1

    def read_file(self, storage: Storage, file: str) -> bytes | None:
        """Read an entire file; None if there is none. Raises OSError like call."""
        return self.call(lambda: storage.read(file), storage, file)
