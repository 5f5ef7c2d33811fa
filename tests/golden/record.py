# SPDX-License-Identifier: Apache-2.0
"""Recorded loss curves: short runs in float64 that CI repeats.

    python -m tests.golden.record NAME     # writes losses/NAME.json again

Each curve is stage 1 and then stage 2 of the demo's recipe and model, on small shards and from
start weights that are made of integers: neither pictures (PNG, fixed-point resizing) nor weights go
through floating-point functions that differ from one processor to the next. What remains is the
order of sums, which the comparison allows for (tests/parity/test_losses.py).
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from owl.config.load import compose
from owl.curate.prepare import prepare_folder
from owl.train.metrics_writers import METRICS_FILE, read_metrics
from owl.train.run import train
from tests.unit.data.shard_factory import chat, picture, write_shard, write_tokenizer

FOLDER = Path(__file__).with_name("losses")
CURVES: dict[str, list[str]] = {
    "token_gate": [],
    "joint_softmax": [
        "model.hyper_attention.fusion=joint_softmax",
        "model.hyper_attention.media_position_shift=0",
        "model.projector=mlp",
        "model.template=v3",
    ],
}
"""What differs from the demo's model, which is a small 7B-240728."""
STEPS = {"stage1": 12, "stage2": 6}
RECORDED = ("loss", "grad_norm")

Curve = dict[str, list[float]]


def curve(name: str) -> dict[str, Curve]:
    """Train both stages; give loss and gradient norm of each step, by stage."""
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "shards")
        write_tokenizer(Path(folder) / "tokenizer")
        stage1, stage2 = Path(folder, "stage1"), Path(folder, "stage2")
        with exact_start_weights():
            _train(stage1, ["checkpoint.start_from=null", *CURVES[name]])
        _train(stage2, [f"checkpoint.start_from={stage1}", *CURVES[name]])
        return {run.name: _read(run) for run in (stage1, stage2)}


def _train(output: Path, overrides: Sequence[str]) -> None:
    stage, folder = output.name, output.parent
    run, problems = compose(
        "pretrain",
        [
            f"experiment={stage}",
            f"output={output}",
            f"stage.train_steps={STEPS[stage]}",
            "data=own",
            f"data.sources.made.path={folder}/shards",
            f"data.tokenizer={folder}/tokenizer",
            "model.vocab_size=259",
            "precision=fp64",
            "pack.text_tokens=512",
            "pack.tiles=16",
            "batch.samples_per_step=16",
            "parallel.device=cpu",
            "log.every_steps=1",
            *overrides,
        ],
    )
    assert not problems, problems
    train(run)


def _read(run: Path) -> Curve:
    lines = list(read_metrics(run / METRICS_FILE))
    return {quantity: [line[quantity] for line in lines] for quantity in RECORDED}


def write_shards(folder: Path) -> None:
    """Write and prepare 40 chats with up to two pictures, stored without loss."""
    triples = []
    for number in range(40):
        names = [f"m{index:04}.png" for index in range(number % 3)]
        document = chat(f"No {number}?", "owl " * (number % 5 + 1), pictures=len(names))
        for media, name in zip(document["media"], names, strict=True):
            media["file"] = name
        files = {
            name: picture(60 + 2 * number, 100 - number, seed=number + index, codec="PNG")
            for index, name in enumerate(names)
        }
        triples.append((f"s{number:04}", document, files))
    write_shard(folder / "made-000.tar", triples)
    assert prepare_folder(folder) == []


@contextmanager
def exact_start_weights() -> Iterator[None]:
    """Draw start weights from integers: torch.randn differs between instruction sets."""

    def uniform(shape: Sequence[int], *, generator: torch.Generator, device: torch.device):
        integers = torch.randint(-(2**20), 2**20, shape, generator=generator, device=device)
        return integers.double() * (3**0.5 / 2**20)  # of variance 1, as randn

    with mock.patch("owl.mcore.random_start.torch.randn", uniform):
        yield


def main(name: str) -> None:
    """Write a curve's file."""
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(curve(name), indent=1) + "\n", encoding="utf-8")
    print(f"{path}: if figures moved, say which and why under Numerics in CHANGELOG.md")


if __name__ == "__main__":
    main(sys.argv[1])
