# SPDX-License-Identifier: Apache-2.0
"""The loop counts, hands on and stops."""

from collections.abc import Iterator

import pytest

from owl.checkpoint.state import TrainState
from owl.data.samples import Cursor, DataReport, StepBatch
from owl.train.loop import Hook, StepReport, fit


def batches(first: int = 0) -> Iterator[StepBatch]:
    """Endless steps of two samples each."""
    step = first
    while True:
        step += 1
        yield StepBatch(
            microbatches=[],
            cursor=Cursor(pack=step, samples_consumed=2 * step),
            report=DataReport(samples=2, text_tokens=10, tiles=3, packs=1, wait_seconds=0.0),
        )


def report_on(batch: StepBatch) -> StepReport:
    """Report a step whose loss is its batch's number; every second one skipped a sample."""
    return StepReport(
        loss=float(batch.cursor.pack),
        grad_norm=1.0,
        learning_rate=0.1,
        loss_scale=1.0,
        update_skipped=False,
        samples=2,
        packs=1,
        text_tokens=10,
        target_tokens=5,
        tiles=3,
        seconds=0.5,
        busy_seconds=0.4,
        skipped={"E301": 1} if batch.cursor.pack % 2 == 0 else {},
    )


class Notebook(Hook):
    """A hook that keeps the counters it is called with."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, float, int]] = []

    def after_step(self, state: TrainState, report: StepReport, batch: StepBatch) -> None:
        self.lines.append((state.step, report.loss, state.cursor.pack))


def test_every_step_is_counted_and_the_cursor_follows_its_batch():
    state = TrainState()

    fit(report_on, batches(), [], state=state, train_steps=4)

    assert state == TrainState(
        step=4,
        consumed_tokens=40,
        consumed_tiles=12,
        skipped={"E301": 2},
        cursor=Cursor(pack=4, samples_consumed=8),
    )


def test_hooks_see_the_counters_after_the_step():
    notebook = Notebook()

    fit(report_on, batches(), [notebook], state=TrainState(), train_steps=3)

    assert notebook.lines == [(1, 1.0, 1), (2, 2.0, 2), (3, 3.0, 3)]


def test_a_resumed_run_takes_only_the_steps_that_are_left():
    state, notebook = TrainState(step=3, consumed_tokens=30), Notebook()

    fit(report_on, batches(first=3), [notebook], state=state, train_steps=5)

    assert [line[0] for line in notebook.lines] == [4, 5]
    assert state.consumed_tokens == 50


def test_a_finished_run_reads_no_batch():
    fit(report_on, iter([]), [], state=TrainState(step=5), train_steps=5)


def test_no_batch_is_read_beyond_the_last_step():
    source = batches()

    fit(report_on, source, [], state=TrainState(), train_steps=2)

    assert next(source).cursor.pack == 3


def test_a_step_that_fails_is_not_counted():
    def fail(batch: StepBatch) -> StepReport:
        if batch.cursor.pack == 2:
            raise FloatingPointError
        return report_on(batch)

    state = TrainState()

    with pytest.raises(FloatingPointError):
        fit(fail, batches(), [], state=state, train_steps=4)

    assert (state.step, state.cursor.pack) == (1, 1)


class Recorder(Hook):
    """A hook that records its calls, and may fail."""

    def __init__(self, calls: list[str], name: str, *, fails: str = "") -> None:
        self.calls, self.name, self.fails = calls, name, fails

    def after_step(self, state: TrainState, report: StepReport, batch: StepBatch) -> None:
        self.record("after_step")

    def on_error(self, error: BaseException) -> None:
        self.record(f"on_error {type(error).__name__}")

    def close(self) -> None:
        self.record("close")

    def record(self, call: str) -> None:
        self.calls.append(f"{self.name} {call}")
        if self.fails and call.startswith(self.fails):
            raise OSError(self.fails)


def test_hooks_are_closed_after_the_last_step():
    calls: list[str] = []

    fit(report_on, batches(), [Recorder(calls, "log")], state=TrainState(), train_steps=2)

    assert calls == ["log after_step", "log after_step", "log close"]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_a_step_that_raises_is_told_to_the_hooks_which_are_then_closed(kind):
    calls: list[str] = []

    def step(batch: StepBatch) -> StepReport:
        raise kind

    hooks = [Recorder(calls, "log"), Recorder(calls, "save")]
    with pytest.raises(kind):
        fit(step, batches(), hooks, state=TrainState(), train_steps=2)

    assert calls == [
        f"save on_error {kind.__name__}",
        "save close",
        f"log on_error {kind.__name__}",
        "log close",
    ]


@pytest.mark.parametrize("fails", ["after_step", "close"])
def test_a_hook_that_raises_does_not_keep_the_others_open(fails):
    calls: list[str] = []

    hooks = [Recorder(calls, "log"), Recorder(calls, "save", fails=fails)]
    with pytest.raises(OSError, match=fails):
        fit(report_on, batches(), hooks, state=TrainState(), train_steps=1)

    assert calls[-3:] == ["save close", "log on_error OSError", "log close"]
