# SPDX-License-Identifier: Apache-2.0
"""A folder that is whole, or not there: written under another name and renamed at the end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from owl.errors import CheckpointError

_MARK = ".written-by-owl-convert"


@contextmanager
def whole_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a folder to fill; it takes its final name when the block ends well.

    An error or an interrupt in the block removes it. A kill leaves `NAME.tmp` behind, which the
    next try removes: a file in it says that it is ours.

    Args:
        final: the name it gets.
        replace: whether a folder of that name may go.

    Raises:
        CheckpointError: there is something of that name already, or it cannot be written.
    """
    check_free(final, replace=replace)
    partial = final.with_name(final.name + ".tmp")
    _clear(partial)
    try:
        partial.mkdir(parents=True)
        (partial / _MARK).touch()
        yield partial
        (partial / _MARK).unlink()
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise CheckpointError(
                f"--output {final} was not written: {error}. Make room, or name another folder."
            ) from error
        raise


def _clear(partial: Path) -> None:
    """Remove what a killed try left behind, and nothing else."""
    if not partial.exists():
        return
    if not (partial / _MARK).is_file():
        raise CheckpointError(
            f"{partial} is needed while --output is written, and is not ours to remove. Move it "
            "away, or name another --output."
        )
    shutil.rmtree(partial)


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
