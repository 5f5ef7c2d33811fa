# SPDX-License-Identifier: Apache-2.0
"""What answers the questions of `owl evaluate`, and the processes that share them."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import yaml

from owl.checkpoint.folder import resolve_checkpoint
from owl.checkpoint.inference import LoadedModel, loaded_model
from owl.config.run import DeviceKind, Precision
from owl.convert.check import check_folder
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.families import reading_of
from owl.data.shown import CutChoice
from owl.errors import OwlError, UsageError
from owl.evaluate.greedy import Answerer, answerer, likeliest_of
from owl.evaluate.job import Ranks, ranks_of

_PRECISIONS = {
    "float32": Precision.fp32,
    "bfloat16": Precision.bf16,
    "float16": Precision.fp16,
}


@contextmanager
def answerer_of(options: argparse.Namespace, longest: int) -> Iterator[tuple[Answerer, Ranks]]:
    """Load the model of a command line on this rank of what torchrun started.

    Args:
        options: of `owl evaluate`.
        longest: tokens of an answer.

    Raises:
        OwlError: model, tokenizer or device cannot be used.
    """
    if options.device and options.device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {options.device}: torch {torch.__version__} finds no GPU.")
    yield from (
        _of_checkpoint(options, longest) if options.checkpoint else _of_folder(options, longest)
    )


def _of_folder(options: argparse.Namespace, longest: int) -> Iterator[tuple[Answerer, Ranks]]:
    if not (options.model / "config.json").is_file():
        raise UsageError(
            f"--model {options.model} holds no config.json. Name a published or exported folder; a "
            "checkpoint or run folder is named by --checkpoint."
        )
    try:
        from owl.evaluate.exported import answerer_of_folder
    except ImportError as error:
        raise OwlError(
            f"--model needs transformers ({error}). Run pip install -e '.[hf]'."
        ) from error
    check_folder(options.model)
    gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    answer = answerer_of_folder(
        options.model,
        device=options.device or gpu,
        dtype=options.dtype,
        max_new_tokens=longest,
        cut=options.cut,
    )
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield answer, Ranks()
        return
    dist.init_process_group("gloo")  # answers are gathered, tensors are not
    try:
        yield answer, ranks_of(dist.group.WORLD)
    finally:
        dist.destroy_process_group()


def _of_checkpoint(options: argparse.Namespace, longest: int) -> Iterator[tuple[Answerer, Ranks]]:
    device = DeviceKind((options.device or "auto").split(":")[0])
    on_gpu = device is not DeviceKind.cpu and torch.cuda.is_available()
    auto = Precision.bf16 if on_gpu else Precision.fp32
    precision = _PRECISIONS.get(options.dtype, auto)
    checkpoint = resolve_checkpoint(options.checkpoint, "--checkpoint")
    tokenizer = options.tokenizer or _tokenizer_of_run(checkpoint)
    with loaded_model(checkpoint, precision, device, alone=False) as model:
        answer = _answerer_of_model(model, tokenizer, longest, cut=options.cut)
        yield answer, ranks_of(model.groups.collection.dp)


def _answerer_of_model(model: LoadedModel, tokenizer: Path, longest: int, *, cut: bool) -> Answerer:
    reading = reading_of(model.config)
    encoder = SampleEncoder(load_tokenizer(tokenizer, reading.controls), reading)
    choice = CutChoice.single if cut else CutChoice.none
    return answerer(encoder, likeliest_of(model.logits), max_tokens=longest, cut=choice)


def _tokenizer_of_run(checkpoint: Path) -> Path:
    """Return the tokenizer that the run of a checkpoint used."""
    config = checkpoint.parent.parent / "config.yaml"
    named = yaml.safe_load(config.read_text())["data"]["tokenizer"] if config.is_file() else ""
    if not named:
        raise UsageError(
            f"--tokenizer is needed: {checkpoint} is in no run folder whose config.yaml names one."
        )
    return Path(named)
