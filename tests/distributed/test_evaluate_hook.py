# SPDX-License-Identifier: Apache-2.0
"""Evaluation during training gives the same figures and answers in every layout."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from owl.config.run import (
    DeviceKind,
    EvaluateConfig,
    MetricKind,
    OptimConfig,
    ParallelConfig,
    Precision,
    RunConfig,
    SourceConfig,
)
from owl.curate.prepare import prepare_folder
from owl.mcore.launch import run_in_processes
from owl.train.metrics_writers import read_metrics
from owl.train.run import train
from tests.tiny_run import tiny_model, tiny_run
from tests.unit.data.shard_factory import chat, picture, write_shard

LAYOUTS = {
    "data 2": {},
    "tensor 2": {"tensor": 2, "sequence": True},
    "interleaved": {"pipeline": 2, "virtual_pipeline": 2},
}


def write_questions(folder: Path) -> Path:
    """Write questions with 0 to 2 pictures; one picture is torn."""
    records = []
    for number in range(7):
        (folder / f"{number}.jpg").write_bytes(picture(seed=number))
        images = [f"{number}.jpg", "0.jpg"][: number % 3]
        answers = ["x"] if number else ["An owl."]
        records.append({"id": number, "images": images, "question": "?", "answers": answers})
    (folder / "4.jpg").write_bytes(b"torn")
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> RunConfig:
    """A run of one process: four steps, evaluated after the second and the last."""
    folder = tmp_path_factory.mktemp("evaluated")
    texts = [(f"t{n}", chat(f"{n}?", "text alone"), {}) for n in range(5)]
    write_shard(folder / "texts/t.tar", texts)
    assert prepare_folder(folder / "texts") == []
    run = tiny_run(
        folder,
        model=tiny_model(init_std=0.2),  # so large that answers depend on the question
        precision=Precision.fp64,
        optim=OptimConfig(learning_rate=1e-3, warmup_fraction=0.0, clip_grad_norm=0.0),
        evaluate=EvaluateConfig(
            every_steps=2,
            sources={"texts": SourceConfig(path=str(folder / "texts"))},
            questions=str(write_questions(folder)),
            metric=MetricKind.vqa,
            max_questions=6,
            batch_size=2,
        ),
    )
    run.data.sources["a"].held_out = 0.2
    train(run)
    return run


def evaluated(run: RunConfig) -> list[dict[str, float]]:
    """Return what each step's line says about evaluation."""
    lines = read_metrics(Path(run.output) / "metrics.jsonl")
    return [{n: v for n, v in line.items() if n.startswith("evaluate/")} for line in lines]


def answers(run: RunConfig) -> list[str]:
    folder = Path(run.output) / "evaluate"
    return [(f / "predictions.jsonl").read_text() for f in sorted(folder.iterdir())]


def test_it_is_evaluated_at_its_steps_and_loss_falls(alone):
    first, second, third, fourth = evaluated(alone)

    assert first == third == {}
    assert set(second) == set(fourth) == {
        "evaluate/loss/a", "evaluate/loss/texts", "evaluate/vqa", "evaluate/vqa_low",
        "evaluate/vqa_high", "evaluate/failed",
    }  # fmt: skip
    assert fourth["evaluate/loss/a"] < second["evaluate/loss/a"]
    assert fourth["evaluate/failed"] == 1
    assert [text.count("\n") for text in answers(alone)] == [6, 6]
    said = [json.loads(line)["answer"] for text in answers(alone) for line in text.splitlines()]
    assert len(set(said)) > 2, "the answers are all alike: nothing is compared"


def test_evaluating_changes_no_step_of_training(alone):
    plain = replace(alone, output=alone.output + "_plain", evaluate=EvaluateConfig())
    train(plain)

    lines = [
        [line["loss"] for line in read_metrics(Path(run.output) / "metrics.jsonl")]
        for run in (alone, plain)
    ]
    assert lines[0] == lines[1]


def in_layout(alone: RunConfig, name: str, processes: int, **degrees) -> RunConfig:
    layout = ParallelConfig(device=DeviceKind.cpu, timeout_minutes=1, **degrees)
    run = replace(alone, output=f"{alone.output}_{name}", parallel=layout)
    run_in_processes(train, processes, run)
    return run


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_figures_of_one_process(alone, name):
    run = in_layout(alone, name, 2, **LAYOUTS[name])

    for mine, theirs in zip(evaluated(run), evaluated(alone), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)
    assert answers(run) == answers(alone)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_pipelines_of_data_parallel_replicas_too(alone):
    run = in_layout(alone, "four", 4, pipeline=2)

    for mine, theirs in zip(evaluated(run), evaluated(alone), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)
    assert answers(run) == answers(alone)
