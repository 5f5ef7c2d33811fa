# SPDX-License-Identifier: Apache-2.0
"""Compare this framework with the published models, and every parallel layout with one process.

owl parity golden DIR [--tensor N] [--pipeline N] [--sequence] [--packed] [--implementation hf]
owl parity layouts [--processes 4] [--dtype float64] [--only SP] [--break NAME]
torchrun --nnodes 2 --nproc-per-node 8 ... -m owl.parity layouts --device cuda --dtype bfloat16

golden: tests/golden/240728 and its neighbours hold cases. Exit code 1: a figure is outside its
tolerance.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owl.config.run import DeviceKind, FamilyKind, Precision
from owl.errors import OwlError

if TYPE_CHECKING:
    from owl.parity.run_layouts import Options

_PRECISIONS = {"float64": Precision.fp64, "float32": Precision.fp32, "bfloat16": Precision.bf16}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run the comparison."""
    parser = argparse.ArgumentParser(
        prog="owl parity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    golden = commands.add_parser(
        "golden", help="compare with tensors computed by the published model code"
    )
    golden.add_argument("folder", type=Path, help="config.json, model.safetensors and cases")
    golden.add_argument("--tensor", type=int, default=1, help="tensor-parallel degree (default 1)")
    golden.add_argument("--pipeline", type=int, default=1, help="pipeline stages (default 1)")
    golden.add_argument("--sequence", action="store_true", help="sequence parallelism")
    golden.add_argument("--image-parallel", action="store_true", help="the tower's parallelism")
    golden.add_argument("--packed", action="store_true", help="all rows of a case in one pack")
    golden.add_argument(
        "--implementation", choices=["training", "hf"], default="training",
        help="hf: owl.hf, the model for transformers (one process, rows as stored)",
    )  # fmt: skip
    _add_layouts(commands)
    options = parser.parse_args(argv)
    try:
        _compare(options)
    except OwlError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _compare(options: argparse.Namespace) -> None:
    """Call the comparison; late imports, because --help must not wait for megatron-core."""
    if options.command == "layouts":
        from owl.parity.run_layouts import run_layouts

        run_layouts(_layout_options(options))
    elif options.implementation == "hf":
        from owl.parity.golden_hf import run_golden_hf  # transformers is an extra

        run_golden_hf(options.folder)
    else:
        from owl.mcore.launch import run_in_processes
        from owl.parity.golden import GoldenLayout, run_golden

        names = ("tensor", "pipeline", "sequence", "image_parallel", "packed")
        layout = GoldenLayout(**{name: getattr(options, name) for name in names})
        processes = layout.tensor * layout.pipeline
        run_in_processes(run_golden, processes, options.folder, layout)


def _add_layouts(commands: Any) -> None:
    layouts = commands.add_parser(
        "layouts", help="train a small model in many parallel layouts and compare with one process"
    )
    layouts.add_argument(
        "--processes",
        type=int,
        default=4,
        help="to start here (default 4); torchrun brings its own",
    )
    layouts.add_argument("--only", default="", help="layouts whose name contains this, such as SP")
    layouts.add_argument("--dtype", choices=list(_PRECISIONS), default="float64")
    layouts.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    layouts.add_argument(
        "--family", type=FamilyKind, choices=list(FamilyKind), default=FamilyKind.owl3
    )
    layouts.add_argument(
        "--variant", nargs="+", metavar="NAME", default=[], help="such as 240728 (default: all)"
    )
    layouts.add_argument(
        "--each-once", action="store_true", help="each feature once, instead of every pair: minutes"
    )
    layouts.add_argument("--output", type=Path, help="write every figure to this JSON file")
    layouts.add_argument(
        "--break",
        dest="fault",
        metavar="NAME",
        help="plant a known fault, such as mask-off-by-one, to see it caught "
        "(all: one after another, exit code 0 if each is)",
    )


def _layout_options(options: argparse.Namespace) -> "Options":
    from owl.parity.faults import FAULTS
    from owl.parity.run_layouts import ALL_FAULTS, Options

    if options.fault not in (None, ALL_FAULTS, *FAULTS):
        raise OwlError(f"--break {options.fault}: use one of {', '.join([*FAULTS, ALL_FAULTS])}.")
    return Options(
        processes=options.processes,
        only=options.only,
        precision=_PRECISIONS[options.dtype],
        device=DeviceKind(options.device),
        fault=options.fault,
        json=options.output,
        family=options.family,
        variants=tuple(options.variant),
        each_once=options.each_once,
    )


if __name__ == "__main__":
    main()
