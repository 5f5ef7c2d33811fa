# SPDX-License-Identifier: Apache-2.0
"""Where a stream of steps resumes: the cursor of an earlier run, if this run may follow it.

Two things must agree: what the stream of packs is made from (the fingerprint), and how many of them
make a step. What differs is refused, or begins at the next window with data.on_change=next_window.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from owl.config.run import ChangePolicy
from owl.data.plan.fingerprint import LIBRARY, fingerprint_differences
from owl.data.samples import Cursor
from owl.errors import CheckpointError

logger = logging.getLogger("owl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What this run would train on."""

    fingerprint: Mapping[str, str]
    windows_per_epoch: int
    packs_per_step: int
    samples_per_step: int | None  # that packs_per_step was chosen for; None: set by the user
    per_forward: int  # packs that all data-parallel ranks take at once


def checked_start(start: Cursor | None, stream: Stream, on_change: ChangePolicy) -> Cursor:
    """Find the cursor to start from, once it is known to belong to this stream.

    Raises:
        CheckpointError: it belongs to other data, settings or steps, and data.on_change=refuse.
    """
    cursor = _of_stream(start or Cursor(), stream)
    if start is None:
        return cursor
    changes = dict(fingerprint_differences(start.fingerprint, stream.fingerprint))
    serious = [line for name, line in changes.items() if not name.startswith(LIBRARY)]
    serious += _step_differences(start, stream)
    if not serious:
        for line in changes.values():
            logger.warning("the tiles may differ in their last bit: %s", line)
        return cursor
    listed = "\n  ".join(serious)
    if on_change == ChangePolicy.refuse:
        raise CheckpointError(
            "the data cursor belongs to other data or settings, so the stream cannot resume "
            f"where it stopped:\n  {listed}\nRestore them; or let the new ones begin at their "
            "next window with data.on_change=next_window; or start a new run from the weights "
            "alone with checkpoint.start_from."
        )
    cursor = _next_window(cursor, stream.windows_per_epoch)
    logger.warning(
        "data or settings have changed:\n  %s\nContinuing with the new ones at epoch %d, window "
        "%d (data.on_change=next_window). Samples may come twice, or not, in this epoch.",
        listed,
        cursor.epoch,
        cursor.window,
    )
    return cursor


def kept_packs_per_step(
    start: Cursor | None, samples_per_step: int | None, fingerprint: Mapping[str, str]
) -> int | None:
    """Packs of a step that a resumed run keeps; None where it has to choose.

    What `samples_per_step` gives depends on the ranks, by rounding, so it is asked only once: a run
    that resumes elsewhere takes the same global batches. New data or budgets give another choice.
    """
    if start is None or samples_per_step is None or start.samples_per_step != samples_per_step:
        return None
    changes = dict(fingerprint_differences(start.fingerprint, fingerprint))
    is_same_stream = all(name.startswith(LIBRARY) for name in changes)
    return start.packs_per_step if is_same_stream else None


def _of_stream(cursor: Cursor, stream: Stream) -> Cursor:
    return replace(
        cursor,
        packs_per_step=stream.packs_per_step,
        samples_per_step=stream.samples_per_step,
        fingerprint=stream.fingerprint,
    )


def _step_differences(start: Cursor, stream: Stream) -> list[str]:
    """Lines about another global batch; a cursor of an older version does not know its own."""
    then, now = start.packs_per_step, stream.packs_per_step
    if then in (0, now):
        return []
    line = f"packs per step: the checkpoint has {then} ({_chosen(start.samples_per_step)}), this "
    line += f"run {now} ({_chosen(stream.samples_per_step)})"
    if then % stream.per_forward:
        line += (
            f"; {then} do not divide among this run's ranks, which take {stream.per_forward} at a "
            "time (batch.micro_batch_size on each data-parallel rank)"
        )
    return [line]


def _chosen(samples_per_step: int | None) -> str:
    if samples_per_step is None:
        return "batch.global_batch_size"
    return f"for batch.samples_per_step={samples_per_step}"


def _next_window(start: Cursor, windows_per_epoch: int) -> Cursor:
    """The first window of this plan that an older plan has not begun."""
    window = start.window + 1 if start.pack else start.window
    epoch = start.epoch
    if window >= windows_per_epoch:
        epoch, window = epoch + 1, 0
    return replace(start, epoch=epoch, window=window, pack=0)
