# SPDX-License-Identifier: Apache-2.0
"""What is logged and written about a step."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch

from owl.checkpoint.state import TrainState
from owl.config.run import LogConfig, PackConfig, StageConfig
from owl.data.samples import Cursor, DataReport, StepBatch
from owl.families.owl3.work import batch_flops
from owl.train.hooks import log as log_hook
from owl.train.hooks.log import LogHook
from owl.train.loop import StepReport, fit
from tests.tiny_run import EVERYTHING, tiny_model
from tests.unit.model.packs import make_pack

PACK = make_pack([(40, [3, 17]), (9, [])])
BATCH = StepBatch(
    microbatches=[PACK, PACK],
    cursor=Cursor(samples_consumed=4),
    report=DataReport(
        samples=4,
        text_tokens=98,
        tiles=4,
        packs=2,
        wait_seconds=0.5,
        read_retries=2,
        imbalance=0.25,
        source_samples={"charts": 1, "photos": 3},
    ),
)
REPORT = StepReport(
    loss=2.0,
    grad_norm=1.0,
    learning_rate=0.1,
    loss_scale=1.0,
    update_skipped=False,
    samples=4,
    packs=2,
    text_tokens=98,
    target_tokens=94,
    tiles=4,
    seconds=1.5,
    busy_seconds=1.0,
)


class Notebook:
    """A writer that keeps what it is given, and may fail to close."""

    def __init__(self, *, fails: bool = False) -> None:
        self.steps: dict[int, Mapping[str, float]] = {}
        self.fails, self.is_closed = fails, False

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.steps[step] = dict(values)

    def close(self) -> None:
        self.is_closed = True
        if self.fails:
            raise OSError("the disk is full")


def make_hook(groups, writers: Sequence[Notebook], **log) -> LogHook:
    return LogHook(
        writers,
        log=LogConfig(**log),
        pack=PackConfig(text_tokens=98, tiles=4),
        flops=lambda batch: batch_flops(batch, tiny_model(), EVERYTHING),
        stage=StageConfig(trainable=EVERYTHING, train_steps=5),
        groups=replace(groups, world_size=4),  # as if four ranks held parts of one replica
    )


@pytest.fixture
def record(alone):
    """Log steps under given settings; return what the writer got, step by step."""

    def record(steps: int = 1, **log) -> dict[int, Mapping[str, float]]:
        notebook = Notebook()
        hook = make_hook(alone, [notebook], **log)
        for step in range(1, steps + 1):
            state = TrainState(step=step, cursor=BATCH.cursor, skipped={"E301": 2})
            hook.after_step(state, REPORT, BATCH)
        return notebook.steps

    return record


def test_work_is_counted_by_part_and_shared_out_over_all_devices(record):
    values = record(device_peak_tflops=1e-6)[1]

    parts = {
        part: 2 * work / 1e12 for part, work in batch_flops(PACK, tiny_model(), EVERYTHING).items()
    }
    assert values["tflop/vision_tower"] == pytest.approx(parts["vision tower"])
    assert values["tflop/attention_to_images"] == pytest.approx(parts["attention to images"])
    a_second_and_device = sum(parts.values()) / (0.5 + 1.5) / 4
    assert values["tflops_per_device"] == pytest.approx(a_second_and_device)
    assert values["mfu"] == pytest.approx(a_second_and_device / 1e-6)


def test_without_a_known_peak_there_is_no_mfu(record):
    assert "mfu" not in record()[1]


def test_the_writer_gets_how_the_data_came(record):
    values = record()[1]

    assert values["wait_seconds"] == values["longest_wait_seconds"] == 0.5
    assert values["step_seconds"] == 2.0
    assert (values["text_fill"], values["tile_fill"]) == (0.5, 0.5)
    assert values["tiles_per_second"] == 2.0
    assert (values["imbalance"], values["measured_imbalance"]) == (0.25, 0.0)
    assert values["skipped/E301"] == 2
    assert (values["share/charts"], values["share/photos"]) == (0.25, 0.75)


def test_ranks_communicate_in_logged_steps_only(record):
    steps = record(steps=5, every_steps=3)

    assert [step for step, values in steps.items() if "tflops_per_device" in values] == [1, 3, 5]
    assert all("loss" in values for values in steps.values())


def test_repeated_reads_are_those_of_all_ranks_since_they_were_last_gathered(record, monkeypatch):
    def two_ranks(row, groups):
        return torch.tensor([row, [value + 1 for value in row]], dtype=torch.float64)

    monkeypatch.setattr(log_hook, "gather_rows", two_ranks)
    steps = record(steps=4, every_steps=3)

    assert {step: v["read_retries"] for step, v in steps.items() if "read_retries" in v} == {
        1: 2 + 3,
        3: 4 + 5,
    }


def test_every_writer_is_closed_when_a_step_raises_and_when_another_writer_fails(alone):
    writers = [Notebook(), Notebook(fails=True), Notebook()]

    def step(batch: StepBatch) -> StepReport:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(step, iter([BATCH]), [make_hook(alone, writers)], state=TrainState(), train_steps=1)

    assert all(writer.is_closed for writer in writers)
