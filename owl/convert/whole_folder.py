# SPDX-License-Identifier: Apache-2.0
"""A folder that is whole, or not there: written under another name and renamed at the end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from owl.errors import CheckpointError


@contextmanager
def whole_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a folder to fill; it takes its final name when the block ends well.

    An error or an interrupt in the block removes it. A kill leaves `NAME.tmp` behind, which the
    next try removes.

    Args:
        final: the name it gets.
        replace: whether a folder of that name may go.

    Raises:
        CheckpointError: there is something of that name already.
    """
    check_free(final, replace=replace)
    partial = final.with_name(final.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)


def check_free(final: Path, *, replace: bool) -> None:
    """Raise CheckpointError where writing would destroy something; cheap, so ask it first."""
    if not final.exists():
        return
    if final.is_file():
        raise CheckpointError(f"--output {final} is a file. Name a folder that does not exist.")
    if any(final.iterdir()) and not replace:
        raise CheckpointError(
            f"--output {final} exists and is not empty. Name another folder, or say --replace to "
            f"have its content deleted when the new one is whole."
        )
