# SPDX-License-Identifier: Apache-2.0
"""Training goes on with the same losses on another number of ranks, and past damaged pictures."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from owl.config.run import (
    CheckpointConfig,
    DeviceKind,
    OptimConfig,
    ParallelConfig,
    Precision,
    StageConfig,
)
from owl.data.prepare import prepare_folder
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


def test_two_ranks_hand_over_to_one_as_if_there_had_only_been_one(tmp_path):
    folders = [write_chats(tmp_path / name, samples=9, name=name) for name in "abc"]
    data = data_config(tmp_path, *folders)
    data.sources["a"].weight = 2.0
    straight = tiny_run(tmp_path, data=data, train_steps=6, **EXACT)
    stopped = replace(straight, output=str(tmp_path / "stopped"))
    half = replace(stopped, stage=StageConfig(name="test", trainable=EVERYTHING, train_steps=4))
    half.optim = replace(half.optim, decay="constant")
    stopped.optim = straight.optim = half.optim

    train(straight)
    run_in_processes(train, 2, half)
    train(stopped)

    expected, actual = losses(Path(straight.output)), losses(Path(stopped.output))
    assert len(actual) == 6
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), rtol=1e-12, atol=0)
    for one, other in zip(metrics(straight), metrics(stopped), strict=True):
        assert one["samples"] == other["samples"]
        assert [one[f"share/{name}"] for name in "abc"] == [
            other[f"share/{name}"] for name in "abc"
        ]


def test_a_damaged_picture_leaves_the_same_rows_on_every_pipeline_stage(tmp_path):
    document = chat(pictures=1)
    files = files_of(document, width=200, height=200)
    torn = {file: data[: len(data) // 2] for file, data in files.items()}
    triples = [(f"p{i}", document, torn if i == 3 else files) for i in range(8)]
    write_shard(tmp_path / "a/p.tar", triples)
    assert prepare_folder(tmp_path / "a") == []
    run = tiny_run(
        tmp_path,
        data=data_config(tmp_path, tmp_path / "a"),
        train_steps=2,
        checkpoint=CheckpointConfig(every_steps=100),
        **EXACT,
    )
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
