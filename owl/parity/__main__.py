# SPDX-License-Identifier: Apache-2.0
"""Prove that this framework computes the published model, in every parallel layout.

python -m owl.parity golden DIR [--tensor N] [--packed] [--implementation hf]
python -m owl.parity layouts [--processes 4] [--dtype float64] [--only SP] [--break NAME]
torchrun --nnodes 2 --nproc-per-node 8 ... -m owl.parity layouts --device cuda --dtype bfloat16
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from owl.config.run import DeviceKind, FamilyKind, Precision
from owl.errors import OwlError
from owl.mcore.launch import run_in_processes
from owl.parity.faults import FAULTS
from owl.parity.golden import run_golden
from owl.parity.run_layouts import ALL_FAULTS, Options, run_layouts

_PRECISIONS = {"float64": Precision.fp64, "float32": Precision.fp32, "bfloat16": Precision.bf16}


def main() -> None:
    """Read the command line and run what it asks for."""
    parser = argparse.ArgumentParser(prog="python -m owl.parity", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    golden = commands.add_parser(
        "golden", help="compare with tensors computed by the published model code"
    )
    golden.add_argument("folder", type=Path, help="config.json, model.safetensors and cases")
    golden.add_argument("--tensor", type=int, default=1, help="tensor-parallel degree (default 1)")
    golden.add_argument("--packed", action="store_true", help="all rows of a case in one pack")
    golden.add_argument(
        "--implementation", choices=["training", "hf"], default="training",
        help="hf: owl.hf, the model for transformers (one process, rows as stored)",
    )  # fmt: skip
    _add_layouts(commands)
    options = parser.parse_args()
    try:
        if options.command == "layouts":
            run_layouts(_layout_options(options))
        elif options.implementation == "hf":
            from owl.parity.golden_hf import run_golden_hf  # transformers is an extra

            run_golden_hf(options.folder)
        else:
            run_in_processes(
                run_golden, options.tensor, options.folder, options.tensor, options.packed
            )
    except OwlError as error:
        sys.exit(f"{type(error).__name__}: {error}")


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
    layouts.add_argument("--variant", nargs="+", default=[], help="of the family (default all)")
    layouts.add_argument(
        "--each-once", action="store_true", help="each feature once, instead of every pair: minutes"
    )
    layouts.add_argument("--json", type=Path, help="write every figure to this file")
    layouts.add_argument(
        "--break",
        dest="fault",
        choices=[*FAULTS, ALL_FAULTS],
        help="plant a known fault, to see it caught (all: one after another, exit 0 if all are)",
    )


def _layout_options(options: argparse.Namespace) -> Options:
    return Options(
        processes=options.processes,
        only=options.only,
        precision=_PRECISIONS[options.dtype],
        device=DeviceKind(options.device),
        fault=options.fault,
        json=options.json,
        family=options.family,
        variants=tuple(options.variant),
        each_once=options.each_once,
    )


if __name__ == "__main__":
    main()
