# SPDX-License-Identifier: Apache-2.0
"""Where checkpoints are stored: `RUN/checkpoints/step_00000100`, always complete.

A checkpoint is written as `step_00000100.tmp` and renamed when complete, so that a killed run
leaves no unfinished one under a checkpoint's name.
"""

import re
import shutil
from pathlib import Path

from owl.errors import CheckpointError

_NAME = re.compile(r"step_(\d{8})")


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return run / "checkpoints" / f"step_{step:08d}"


def complete_checkpoints(run: Path) -> list[Path]:
    """List a run's checkpoints, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def newest_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint that a restarted run resumes from, None if there is none."""
    return next(reversed(complete_checkpoints(run)), None)


def resolve_checkpoint(path: Path, setting: str) -> Path:
    """Return a checkpoint, or the newest one of a run folder.

    Args:
        path: the user's value, a checkpoint or a run folder.
        setting: its name, for the message.

    Raises:
        CheckpointError: it is neither.
    """
    if (path / "metadata.json").is_file():
        return path
    newest = newest_checkpoint(path)
    if newest is None and (path / "config.json").is_file():
        raise CheckpointError(
            f"{setting}={path} is a Hugging Face folder, not a checkpoint. Convert it first with "
            f"python -m owl.convert import."
        )
    if newest is None:
        raise CheckpointError(
            f"{setting}={path} is neither a checkpoint (no metadata.json in it) nor a run folder "
            f"with one below checkpoints/. Name a folder like runs/stage1, or "
            f"runs/stage1/checkpoints/step_00000100."
        )
    return newest


def remove_old(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints (0 keeps all), and the rests of killed saves."""
    folder = run / "checkpoints"
    for leftover in folder.glob("step_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for path in complete_checkpoints(run)[:-keep] if keep else []:
        shutil.rmtree(path, ignore_errors=True)
