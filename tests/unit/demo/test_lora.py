# SPDX-License-Identifier: Apache-2.0
"""On the demo, a small adapter learns what full tuning learns, and peft answers as the trainer."""

from pathlib import Path

import pytest
from peft import PeftModel

from owl.checkpoint.inference import loaded_model
from owl.config.load import compose
from owl.config.run import DeviceKind
from owl.convert.adapters import export_adapter
from owl.convert.to_hf import ExportOptions, export_checkpoint
from owl.demo.evaluate import accuracy, answer_held_out, answerer_of
from owl.demo.exported import Exported, answerer_of_exported
from owl.demo.prepare import prepare_demo
from owl.model.lora import is_adapter
from owl.train.overview import parameter_sizes
from owl.train.run import train

RANK_4 = ("lora=all", "lora.rank=4", "lora.alpha=8", "optim.learning_rate=1e-2")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    prepare_demo(folder / "demo_data")
    return folder


def run(folder: Path, stage: str, name: str, *overrides: str):
    """Train a stage of the demo as the command line does."""
    settings = [
        f"+experiment={stage}",
        f"data.demo_folder={folder / 'demo_data'}",
        f"output={folder / name}",
        *("parallel.device=cpu", "log.every_steps=100", "checkpoint.every_steps=1000"),
        *overrides,
    ]
    run, problems = compose("pretrain", settings)
    assert not problems
    train(run)
    return run


def answers(answerer):
    predictions = answer_held_out("stage2", answerer)
    return accuracy(predictions)["several"], [prediction.answer for prediction in predictions]


def trainers(folder: Path, name: str):
    with loaded_model(folder / name, device=DeviceKind.cpu) as model:
        return answers(answerer_of(model, folder / "demo_data/tokenizer"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_small_adapter_learns_what_full_tuning_learns(demo):
    run(demo, "stage1", "stage1")
    from_stage1 = f"checkpoint.start_from={demo / 'stage1'}"
    run(demo, "stage2", "full", from_stage1)
    lora = run(demo, "stage2", "lora", from_stage1, *RANK_4)

    sizes = dict(parameter_sizes(lora))
    adapters = sum(size for name, size in sizes.items() if is_adapter(name))
    (before, start), (after, trained) = trainers(demo, "stage1"), trainers(demo, "lora")
    full, _ = trainers(demo, "full")
    print(f"several: start {before:.1%}, adapter {after:.1%}, full tuning {full:.1%}")
    assert adapters <= 0.05 * sum(sizes.values())
    assert before <= 0.6
    assert after >= full - 0.05

    tokenizer = ExportOptions(base=demo / "demo_data/tokenizer")
    export_checkpoint(demo / "stage1", demo / "base", tokenizer)
    export_checkpoint(demo / "lora", demo / "merged", tokenizer)
    export_adapter(demo / "lora", demo / "adapter", base=demo / "base")
    base = Exported.load(demo / "base")
    network = PeftModel.from_pretrained(base.network, demo / "adapter").eval()
    with_peft = answerer_of_exported(Exported(network, base.processor))
    assert answers(with_peft)[1] == trained
    with network.disable_adapter():
        assert answers(with_peft) == (before, start)
    assert answers(answerer_of_exported(Exported.load(demo / "merged")))[1] == trained
