# SPDX-License-Identifier: Apache-2.0
"""Where checkpoints lie: `RUN/checkpoints/step_00000100`, complete or not there at all.

A checkpoint is written as `step_00000100.tmp` and renamed when whole, so a killed run leaves no
half-written one behind that looks whole.
"""

import re
import shutil
from pathlib import Path

from owl.errors import CheckpointError

_NAME = re.compile(r"step_(\d{8})")


def checkpoint_path(run: Path, step: int) -> Path:
    """Name the checkpoint of a step."""
    return run / "checkpoints" / f"step_{step:08d}"


def complete_checkpoints(run: Path) -> list[Path]:
    """List a run's whole checkpoints, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def newest_checkpoint(run: Path) -> Path | None:
    """Find the checkpoint that a restarted run goes on from."""
    return next(reversed(complete_checkpoints(run)), None)


def resolve_checkpoint(path: Path, setting: str) -> Path:
    """Accept a checkpoint, or a run folder and take its newest.

    Args:
        path: what the user gave.
        setting: where they gave it, for the message.
    """
    if (path / "metadata.json").is_file():
        return path
    newest = newest_checkpoint(path)
    if newest is None and (path / "config.json").is_file():
        raise CheckpointError(
            f"{setting}={path} is a Hugging Face folder, not a checkpoint. Convert it before with "
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
    """Delete all but the newest `keep` checkpoints, and leftovers of killed saves; 0 keeps all."""
    folder = run / "checkpoints"
    for leftover in folder.glob("step_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for path in complete_checkpoints(run)[:-keep] if keep else []:
        shutil.rmtree(path, ignore_errors=True)
