# SPDX-License-Identifier: Apache-2.0
"""Prove that this framework computes the published model.

python -m owl.parity golden DIR [--tensor N] [--packed]
"""

import argparse
import sys
from pathlib import Path

from owl.errors import OwlError
from owl.mcore.launch import run_in_processes
from owl.parity.golden import run_golden


def main() -> None:
    """Read the command line and run the proof it asks for."""
    parser = argparse.ArgumentParser(prog="python -m owl.parity", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    golden = commands.add_parser(
        "golden", help="compare with tensors computed by the published model code"
    )
    golden.add_argument("folder", type=Path, help="config.json, model.safetensors and cases")
    golden.add_argument("--tensor", type=int, default=1, help="tensor-parallel degree (default 1)")
    golden.add_argument("--packed", action="store_true", help="all rows of a case in one pack")
    options = parser.parse_args()
    try:
        run_in_processes(run_golden, options.tensor, options.folder, options.tensor, options.packed)
    except OwlError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
