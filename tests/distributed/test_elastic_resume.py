# SPDX-License-Identifier: Apache-2.0
"""Training goes on with the same losses on another number of ranks, and past damaged pictures."""

from collections.abc import Container
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from owl.config.run import (
    CheckpointConfig,
    DeviceKind,
    OptimConfig,
    PackConfig,
    ParallelConfig,
    Precision,
    RunConfig,
    StageConfig,
)
from owl.curate.prepare import prepare_folder
from owl.mcore.launch import run_in_processes
from owl.train.metrics_writers import read_metrics
from owl.train.run import train
from tests.tiny_run import EVERYTHING, losses, tiny_run
from tests.unit.data.shard_factory import chat, data_config, files_of, write_chats, write_shard

EXACT = {
    "precision": Precision.fp64,
    "optim": OptimConfig(
        learning_rate=1e-3, warmup_fraction=0.0, distributed=False, clip_grad_norm=0.0
    ),
}


def layout(**degrees) -> ParallelConfig:
    return ParallelConfig(device=DeviceKind.cpu, timeout_minutes=2, **degrees)


def metrics(run) -> list[dict]:
    return read_metrics(Path(run.output) / "metrics.jsonl")


def test_four_ranks_hand_over_to_two_and_to_one_as_if_nothing_had_stopped(tmp_path):
    folders = [write_chats(tmp_path / name, samples=9, name=name) for name in "abc"]
    data = data_config(tmp_path, *folders)
    data.sources["a"].weight = 2.0
    straight = tiny_run(tmp_path, data=data, train_steps=6, **EXACT)
    straight.optim = replace(straight.optim, decay="constant")
    stopped = replace(straight, output=str(tmp_path / "stopped"))

    run_in_processes(train, 4, straight)
    for steps, ranks in ((2, 4), (4, 2), (6, 1)):  # 27 samples: an epoch ends on the way
        stage = StageConfig(name="test", trainable=EVERYTHING, train_steps=steps)
        run_in_processes(train, ranks, replace(stopped, stage=stage))

    expected, actual = losses(Path(straight.output)), losses(Path(stopped.output))
    assert len(actual) == 6
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), rtol=1e-12, atol=0)
    for one, other in zip(metrics(straight), metrics(stopped), strict=True):
        assert one["samples"] == other["samples"]
        assert [one[f"share/{name}"] for name in "abc"] == [
            other[f"share/{name}"] for name in "abc"
        ]


def run_with_torn_pictures(folder: Path, places: Container[int]) -> RunConfig:
    """Describe two steps of four packs over 16 chats with a picture each, some of them torn."""
    document = chat(pictures=1)
    files = files_of(document, width=200, height=200)
    torn = {file: data[: len(data) // 2] for file, data in files.items()}
    triples = [(f"p{i:02}", document, torn if i in places else files) for i in range(16)]
    write_shard(folder / "a/p.tar", triples)
    assert prepare_folder(folder / "a") == []
    return tiny_run(
        folder,
        data=data_config(folder, folder / "a"),
        pack=PackConfig(text_tokens=256, tiles=2, window=16),
        train_steps=2,
        checkpoint=CheckpointConfig(every_steps=100),
        **EXACT,
    )


def test_a_damaged_picture_leaves_the_same_rows_on_every_pipeline_stage(tmp_path):
    run = run_with_torn_pictures(tmp_path, {1, 7, 12})
    run.batch.global_batch_size = 2
    alone = replace(run, output=str(tmp_path / "alone"))
    train(alone)
    start = str(next((tmp_path / "alone/checkpoints").iterdir()))
    results = []
    for name, processes, degrees in (("one", 1, {}), ("two", 2, {"pipeline": 2})):
        again = replace(
            run,
            output=str(tmp_path / name),
            checkpoint=CheckpointConfig(start_from=start, every_steps=100),
            parallel=layout(**degrees),
        )
        run_in_processes(train, processes, again)
        results.append(metrics(again))

    assert results[0][-1]["skipped/E308"] == results[1][-1]["skipped/E308"] > 0
    for one, two in zip(*results, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-12)
        assert two["text_tokens"] == one["text_tokens"]


def test_two_ranks_count_together_what_each_of_them_skips(tmp_path):
    one = run_with_torn_pictures(tmp_path, {1, 4, 7, 8, 11, 14})
    two = replace(one, output=str(tmp_path / "two"))

    train(one)
    run_in_processes(train, 2, two)

    for alone, together in zip(metrics(one), metrics(two), strict=True):
        assert together["skipped/E308"] == alone["skipped/E308"] > 1
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-12)


def test_two_ranks_end_together_when_neither_alone_has_spent_the_skip_budget(tmp_path, capfd):
    run = run_with_torn_pictures(tmp_path, range(16))
    run.data = replace(run.data, max_skipped_fraction=0.0, max_skipped_samples=4)

    with pytest.raises(SystemExit, match="2"):
        run_in_processes(train, 2, run)

    # Four of them on each rank, which the budget allows.
    assert "8 of 8 samples of data.sources.a have content errors" in capfd.readouterr().err
