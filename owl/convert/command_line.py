# SPDX-License-Identifier: Apache-2.0
"""The commands of `owl convert`, and the function that each calls.

Functions import what they need: megatron-core takes seconds to import, and --help does without it.
"""

import argparse
import math
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from owl.config.run import ModelConfig, ParallelConfig
from owl.errors import ConfigError, OwlError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_PARTS = ("owl3", "language-model", "vision-model")
_DTYPES = ("float32", "bfloat16", "float16")


def parse(argv: Sequence[str] | None = None) -> tuple[Callable[[Namespace], None], Namespace]:
    """Read the command line; return the function to call and its options."""
    parser = argparse.ArgumentParser(
        prog="owl convert",
        description="Convert between checkpoints and Hugging Face folders.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_import, _add_export, _add_verify, _add_init):
        add(commands)
    options = parser.parse_args(argv)
    return options.run, options


def _add_import(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("import", help="a published folder to a checkpoint")
    command.set_defaults(run=_import)
    command.add_argument("--hf", type=Path, required=True, metavar="DIR")
    command.add_argument("--output", type=Path, required=True, metavar="DIR")
    command.add_argument(
        "--adapter", type=Path, metavar="DIR", help="a LoRA adapter of peft on that folder's model"
    )
    command.add_argument("--name", help="name for the model (default: the folder's)")
    for degree in ("--tensor", "--pipeline"):
        command.add_argument(
            degree, type=int, metavar="N",
            help="a layout to check the model against; the checkpoint loads in any that fits",
        )  # fmt: skip
    command.add_argument("--replace", action="store_true", help="replace an --output that exists")


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("export", help="a checkpoint to a Hugging Face folder")
    command.set_defaults(run=_export)
    command.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="checkpoint, or run folder (its newest)"
    )
    command.add_argument("--output", type=Path, metavar="DIR")
    command.add_argument(
        "--base", type=Path, metavar="DIR",
        help="copy tokenizer, generation config and processor config from this folder",
    )  # fmt: skip
    command.add_argument(
        "--shard-size", type=_bytes, default="5GB", metavar="SIZE",
        help='most bytes in a file: "5GB" (the default), "256MB"; "0" for a single file',
    )  # fmt: skip
    command.add_argument("--dtype", choices=_DTYPES, help="default: as in the checkpoint")
    command.add_argument("--part", choices=_PARTS, default="owl3")
    command.add_argument(
        "--adapter", action="store_true",
        help="write only the adapters of a LoRA run, for peft; by default they are merged",
    )  # fmt: skip
    command.add_argument(
        "--without-code", dest="with_code", action="store_false",
        help="leave out what loads the model where owl is not installed",
    )  # fmt: skip
    command.add_argument("--with-code", action="store_true", default=True, help=argparse.SUPPRESS)
    command.add_argument("--replace", action="store_true", help="replace an --output that exists")
    command.add_argument(
        "--dry-run", action="store_true", help="print names and shapes, write nothing"
    )
    command.add_argument(
        "--model", metavar="NAME", help="of configs/model, for --dry-run without a checkpoint"
    )


def _add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "verify", help="compare folder and checkpoint, tensor by tensor and in logits"
    )
    command.set_defaults(run=_verify)
    command.add_argument("--hf", type=Path, required=True, metavar="DIR")
    command.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    command.add_argument(
        "--tensors-only", action="store_true", help="do not compare logits: needs less memory"
    )
    command.add_argument("--seed", type=int, default=1234, help="of the probe")


def _add_init(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "init", help="a starting checkpoint from a pretrained language model and vision model"
    )
    command.set_defaults(run=_init)
    command.add_argument(
        "--language-model",
        type=Path,
        required=True,
        metavar="DIR",
        help="Qwen2 for Owl3; LLaMA for the families that have one",
    )
    command.add_argument(
        "--vision-model",
        type=Path,
        required=True,
        metavar="DIR",
        help="SigLIP for Owl3; CLIP for the families that have one",
    )
    command.add_argument(
        "--variant", required=True, metavar="NAME",
        help="published variant to follow, such as 240728; an unknown name lists them all",
    )  # fmt: skip
    command.add_argument("--output", type=Path, required=True, metavar="DIR")
    command.add_argument(
        "--layer-indices", type=int, nargs="+", metavar="N",
        help="hyper layers, counted from 0 (default: the variant's own)",
    )  # fmt: skip
    command.add_argument(
        "--vocab-size", type=int, help="embedding rows to keep (default: the variant's own)"
    )
    command.add_argument(
        "--image-size", type=int, metavar="PIXELS",
        help="side of a picture, where the family can resize the vision model's position table "
        "(default: the vision model's own)",
    )  # fmt: skip
    command.add_argument("--name", default="owl3", help="name for the model")
    command.add_argument("--seed", type=int, default=1234, help="of the remaining weights")


def _import(options: Namespace) -> None:
    from owl.convert.from_hf import import_checkpoint

    wants_layout = options.tensor is not None or options.pipeline is not None
    tensor = 1 if options.tensor is None else options.tensor
    pipeline = 1 if options.pipeline is None else options.pipeline
    model = import_checkpoint(
        options.hf,
        options.output,
        name=options.name,
        layout=ParallelConfig(tensor=tensor, pipeline=pipeline) if wants_layout else None,
        adapter=options.adapter,
        replace=options.replace,
        report=_print,
    )
    if wants_layout:
        _print(
            f"--tensor {tensor} --pipeline {pipeline} fit this model. The checkpoint is the same "
            "without them: it has no layout, and loads in any that fits."
        )
    _print_next_step(model, options.output)


def _export(options: Namespace) -> None:
    if options.dry_run:
        _dry_run(options)
        return
    if options.checkpoint is None or options.output is None:
        raise OwlError("export needs --checkpoint and --output, or --dry-run and --model.")
    import torch

    dtype = getattr(torch, options.dtype) if options.dtype else None
    if options.adapter:
        from owl.convert.adapters import export_adapter

        specs = export_adapter(
            options.checkpoint,
            options.output,
            base=options.base,
            dtype=dtype,
            replace=options.replace,
        )
        _print(f"{options.output}: {len(specs)} tensors")
        return
    from owl.convert.export_part import Part
    from owl.convert.to_hf import ExportOptions, export_checkpoint

    specs = export_checkpoint(
        options.checkpoint,
        options.output,
        ExportOptions(
            part=Part(options.part),
            base=options.base,
            shard_bytes=options.shard_size,
            dtype=dtype,
            with_code=options.with_code,
            replace=options.replace,
        ),
        report=_print,
    )
    _print(f"{options.output}: {len(specs)} tensors")


def _dry_run(options: Namespace) -> None:
    """Print what an export would write, one `name<TAB>shape` a line."""
    from owl.convert.export_part import Part
    from owl.convert.to_hf import planned_tensors

    for name, shape in planned_tensors(_planned_model(options), Part(options.part)).items():
        _print(f"{name}\t{shape}")


def _planned_model(options: Namespace) -> ModelConfig:
    if options.checkpoint is not None:
        from owl.checkpoint.folder import resolve_checkpoint
        from owl.checkpoint.load import load_model_config

        return load_model_config(resolve_checkpoint(options.checkpoint, "--checkpoint"))
    from owl.config.load import CONFIGS, compose

    known = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
    if options.model not in known:
        raise OwlError(
            f"--model {options.model} is none of {', '.join(known)}. --dry-run needs one of these, "
            f"or --checkpoint."
        )
    run, problems = compose("pretrain", [f"model={options.model}"])
    if problems:
        raise ConfigError(problems)
    return run.model


def _verify(options: Namespace) -> None:
    from owl.convert.verify import verify

    report = verify(
        options.hf,
        options.checkpoint,
        logits=not options.tensors_only,
        seed=options.seed,
        report=_print,
    )
    _print(str(report))
    if not report.is_equal:
        sys.exit(1)


def _init(options: Namespace) -> None:
    from owl.convert.init import init_checkpoint
    from owl.convert.start import InitOptions

    model = init_checkpoint(
        options.language_model,
        options.vision_model,
        options.output,
        InitOptions(
            variant=options.variant,
            layer_indices=options.layer_indices,
            vocab_size=options.vocab_size,
            image_size=options.image_size,
            name=options.name,
            seed=options.seed,
        ),
        report=_print,
    )
    _print_next_step(model, options.output)


def _print_next_step(model: ModelConfig, output: Path) -> None:
    from owl.config.load import CONFIGS
    from owl.convert.families import PUBLISHED

    for title, text in PUBLISHED[model.family].describe(model).items():
        _print(f"{title}: {text}")
    has_own = (CONFIGS / "experiment" / model.family / "stage1.yaml").is_file()
    experiment = f"{model.family}/stage1" if has_own else "stage1"
    _print(
        f"vocabulary: {model.vocab_size}\n"
        f"Train from it with: torchrun pretrain_owl3.py +experiment={experiment} "
        f"checkpoint.start_from={output} model=..."
    )


def _bytes(text: str) -> int:
    """Parse "5GB" or "256MiB"; 0 means no limit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?B|)", text.strip().upper())
    if match is None or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 5GB, 256MB or 0")
    return math.floor(float(match[1]) * _UNITS[match[2]]) or sys.maxsize


def _print(line: str) -> None:
    print(line, flush=True)
