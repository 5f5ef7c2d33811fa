# SPDX-License-Identifier: Apache-2.0
"""One run at a time writes into a run folder."""

import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from pathlib import Path

from filelock import FileLock, Timeout

from owl.errors import ConfigError
from owl.logging import logger

LOCK = ".lock"


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Lock a run folder on the first rank.

    The lock is the system's: it is released however the process ends, and forked data workers do
    not inherit it, so that neither a crash nor a worker left behind locks the next start out.
    On a disk without such locks training continues without one: a lock that is only a file would
    outlast a crash on another node, where the restart cannot see that its holder is gone.

    Raises:
        ConfigError: another run holds the folder.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    with _lock(file):
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield


def _lock(file: Path) -> AbstractContextManager[object]:
    try:
        return FileLock(file, timeout=0, fallback_to_soft=False).acquire()
    except Timeout:
        raise ConfigError(
            f"output={file.parent} is being written by another run ({file.read_text().strip()}). "
            f"Wait for it, end it, or choose another output=."
        ) from None
    except OSError as error:
        if error.errno not in (ENOLCK, ENOSYS, EOPNOTSUPP):
            raise
        logger.warning("output=%s cannot be locked: start no second run there", file.parent)
        return nullcontext()
