# SPDX-License-Identifier: Apache-2.0
"""A folder that is complete, or absent: written under another name and renamed at the end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from owl.errors import CheckpointError

_MARK = ".written-by-owl-convert"


@contextmanager
def atomic_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Provide a folder to fill, which gets its final name when the block ends without error.

    An error or an interrupt in the block removes it. A kill leaves `NAME.tmp` behind, which the
    next attempt removes: it recognises it by a file in it.

    Args:
        final: the final name.
        replace: whether an existing folder of that name may be deleted.

    Raises:
        CheckpointError: the name is taken, or the folder cannot be written.
    """
    check_free(final, replace=replace)
    partial = final.with_name(final.name + ".tmp")
    _remove_leftover(partial)
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


def _remove_leftover(partial: Path) -> None:
    """Remove what a killed attempt left behind, and nothing else."""
    if not partial.exists():
        return
    if not (partial / _MARK).is_file():
        raise CheckpointError(
            f"{partial} is needed while --output is written, but was not made by a conversion, so "
            "it is not removed. Move it away, or name another --output."
        )
    shutil.rmtree(partial)


def check_free(final: Path, *, replace: bool) -> None:
    """Raise CheckpointError where writing would destroy something; cheap, so call it first."""
    if not final.exists():
        return
    if final.is_file():
        raise CheckpointError(f"--output {final} is a file. Name a folder that does not exist.")
    if any(final.iterdir()) and not replace:
        raise CheckpointError(
            f"--output {final} exists and is not empty. Name another folder, or add --replace to "
            f"delete its content once the new one is complete."
        )
