# SPDX-License-Identifier: Apache-2.0
"""Memory and time of a conversion, both ways, next to loading the model whole and copying bytes.

    python -m benchmarks.convert [--folder DIR] [--model owl3_1b_241014] [--shard-size 256MB]

Random bfloat16 weights of a published size in shards. Each row runs in a process of its own;
"memory" is the process's peak above what it held after its imports. Exits non-zero when a
conversion needs more than 1.3 times the largest file (or tensor, if one is larger) and 200 MB, or
more time than copying the bytes twice.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from owl.checkpoint.tensor_spec import TensorSpec
from owl.config.load import CONFIGS
from owl.config.node import build_node
from owl.config.run import ModelConfig

MEGABYTE = 10**6
SHARDS_ALLOWED, ALLOWED_BESIDE = 1.3, 200 * MEGABYTE


@dataclass(frozen=True)
class Row:
    """One measured action."""

    action: str
    seconds: float
    peak_bytes: int


def main() -> int:
    """Measure every action and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--model", default="owl3_1b_241014", help="of configs/model")
    parser.add_argument("--shard-mb", type=int, default=256, help="most MB in a file")
    parser.add_argument("--action", choices=list(ACTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.action:  # this is the process of one row
        measure(options.action, options.folder)
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        return compare(Path(folder), options.model, options.shard_mb * MEGABYTE)


def compare(folder: Path, model: str, shard_bytes: int) -> int:
    """Make a model and run all actions on it."""
    specs = write_random_model(folder / "hf", model, shard_bytes)
    total = sum(spec.nbytes for spec in specs.values())
    largest = max(shard_bytes, max(spec.nbytes for spec in specs.values()))
    bound = round(SHARDS_ALLOWED * largest + ALLOWED_BESIDE)
    print(f"{model}: {len(specs)} tensors, {total / MEGABYTE:,.0f} MB, largest file or tensor "
          f"{largest / MEGABYTE:,.0f} MB, so {bound / MEGABYTE:,.0f} MB are allowed\n")  # fmt: skip
    rows = [run_alone(action, folder) for action in ACTIONS]
    print(f"{'action':<26}{'seconds':>9}{'memory':>12}")
    for row in rows:
        print(f"{row.action:<26}{row.seconds:>9.1f}{row.peak_bytes / MEGABYTE:>9,.0f} MB")
    twice = next(row.seconds for row in rows if row.action == "copy the bytes twice")
    failures = [
        f"{row.action} needs {what}"
        for row in rows
        if row.action in ("import", "export")
        for what, too_much in (
            (f"more than {bound / MEGABYTE:,.0f} MB", row.peak_bytes > bound),
            (f"more than {twice:.1f} s", row.seconds > twice),
        )
        if too_much
    ]
    print("\n" + ("; ".join(failures) or "both conversions are within bounds"))
    return 1 if failures else 0


def write_random_model(folder: Path, name: str, shard_bytes: int) -> dict[str, TensorSpec]:
    """Write a published folder of random weights, one tensor in memory at a time."""
    from owl.convert.hf_config import published_config
    from owl.convert.safetensors_file import ShardedSafetensors
    from owl.convert.shapes import published_shapes

    text = (CONFIGS / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    model = build_node(ModelConfig, yaml.safe_load(text))
    folder.mkdir(parents=True)
    specs = {
        tensor: TensorSpec(shape, torch.bfloat16)
        for tensor, shape in published_shapes(model).items()
    }
    files = ShardedSafetensors(folder, specs, shard_bytes)
    for tensor, spec in specs.items():
        files.write(tensor, torch.empty(spec.shape, dtype=spec.dtype).normal_(std=0.02))
    files.close()
    config = published_config(model, "bfloat16")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return specs


def run_alone(action: str, folder: Path) -> Row:
    """Run one action in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.convert", "--action", action]
    done = subprocess.run(
        [*command, "--folder", str(folder)], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, peak = done.stdout.split()[-2:]
    return Row(action, float(seconds), int(peak))


def measure(action: str, folder: Path) -> None:
    """Run one action here and print its seconds and its peak of memory."""
    work = ACTIONS[action](folder)
    # Linux: forget the peak so far, which the imports made.
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.perf_counter()
    work()
    print(time.perf_counter() - start, memory("VmHWM") - before)


def memory(field: str) -> int:
    """Read a line of /proc/self/status in bytes: VmRSS is now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def copying(folder: Path) -> Callable[[], object]:
    """Read and write the bytes twice."""

    def work() -> None:
        for copy in ("copy1", "copy2"):
            shutil.copytree(folder / "hf", folder / copy)
            shutil.rmtree(folder / copy)

    return work


def loading_whole(folder: Path) -> Callable[[], object]:
    """Hold all tensors at once, as a conversion without streaming does."""
    from safetensors.torch import load_file

    def work() -> None:
        tensors = [load_file(file) for file in sorted((folder / "hf").glob("*.safetensors"))]
        sum(float(tensor.flatten()[::1024].sum()) for part in tensors for tensor in part.values())

    return work


def importing(folder: Path) -> Callable[[], object]:
    """Published folder to checkpoint."""
    from owl.convert.from_hf import import_checkpoint

    return lambda: import_checkpoint(folder / "hf", folder / "checkpoint")


def exporting(folder: Path) -> Callable[[], object]:
    """Checkpoint to published folder, in shards of the same size."""
    from owl.convert.to_hf import ExportOptions, export_checkpoint

    files = (folder / "hf").glob("*.safetensors")
    options = ExportOptions(shard_bytes=max(file.stat().st_size for file in files))
    return lambda: export_checkpoint(folder / "checkpoint", folder / "out", options)


ACTIONS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "copy the bytes twice": copying,
    "load the folder whole": loading_whole,
    "import": importing,
    "export": exporting,
}


if __name__ == "__main__":
    sys.exit(main())
