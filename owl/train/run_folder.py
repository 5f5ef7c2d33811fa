# SPDX-License-Identifier: Apache-2.0
"""One run at a time writes into a run folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from owl.errors import ConfigError

LOCK = ".lock"


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Hold a run folder, on the first rank; the system lets go of it however the process ends.

    Ranks that a killed launcher left behind go on training: a restart would meet them here.

    Raises:
        ConfigError: another run writes there.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"output={folder} is being written by another run ({file.read().strip()}). Wait "
                f"for it, end it, or choose another output=."
            ) from None
        except OSError:
            pass  # some network file systems have no locks
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
