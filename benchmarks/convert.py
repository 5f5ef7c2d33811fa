# SPDX-License-Identifier: Apache-2.0
"""Memory and time of a conversion, both ways, beside loading the complete model and copying bytes.

    python -m benchmarks.convert [--model owl3_1b_241014] [--shard-mb 256] [--rounds 3]

Random bfloat16 weights of a published size in shards. Each action runs in a process of its own, in
rounds of which the first does not count, after the disk has caught up; seconds are the median.
"moved" is what the process reads and writes, "memory" its peak above what it held after its
imports. Exits non-zero when a conversion needs more than 1.3 times the largest file (or tensor, if
one is larger) and 200 MB, or moves more than copying the bytes twice does. Time is reported as a
multiple of that copying but not checked: it depends on the disk and, on a virtual machine, on how
fast the host provides memory.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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
    moved_bytes: int


def main() -> int:
    """Measure every action and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--model", default="owl3_1b_241014", help="of configs/model")
    parser.add_argument("--shard-mb", type=int, default=256, help="most MB in a file")
    parser.add_argument("--rounds", type=int, default=3, help="times that each action runs")
    parser.add_argument("--action", choices=list(ACTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.action:  # this is the process of one row
        measure(options.action, options.folder)
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        shard_bytes = options.shard_mb * MEGABYTE
        return compare(Path(folder), options.model, shard_bytes, options.rounds)


def compare(folder: Path, model: str, shard_bytes: int, rounds: int) -> int:
    """Make a model and run all actions on it."""
    specs = write_random_model(folder / "hf", model, shard_bytes)
    total = sum(spec.nbytes for spec in specs.values())
    largest = max(shard_bytes, max(spec.nbytes for spec in specs.values()))
    bound = round(SHARDS_ALLOWED * largest + ALLOWED_BESIDE)
    print(f"{model}: {len(specs)} tensors, {total / MEGABYTE:,.0f} MB, largest file or tensor "
          f"{largest / MEGABYTE:,.0f} MB, so {bound / MEGABYTE:,.0f} MB are allowed\n")  # fmt: skip
    runs = [{action: run_alone(action, folder) for action in ACTIONS} for _ in range(rounds + 1)]
    rows = [median_of([run[action] for run in runs[1:]]) for action in ACTIONS]
    twice = rows[0]
    print(f"{'action':<26}{'seconds':>9}{'x copying':>11}{'moved':>12}{'memory':>12}")
    for row in rows:
        moved, peak = (f"{n / MEGABYTE:,.0f} MB" for n in (row.moved_bytes, row.peak_bytes))
        times = row.seconds / twice.seconds
        print(f"{row.action:<26}{row.seconds:>9.1f}{times:>11.2f}{moved:>12}{peak:>12}")
    conversions = [row for row in rows if row.action in ("import", "export")]
    failures = [
        f"{row.action} needs more than {bound / MEGABYTE:,.0f} MB"
        for row in conversions
        if row.peak_bytes > bound
    ] + [
        f"{row.action} moves more than {twice.action} does"
        for row in conversions
        if row.moved_bytes > twice.moved_bytes
    ]
    print("\n" + ("; ".join(failures) or "both conversions are within bounds"))
    return 1 if failures else 0


def median_of(runs: Sequence[Row]) -> Row:
    """Summarise an action's runs: the median of their times, the highest of their peaks."""
    seconds = statistics.median(run.seconds for run in runs)
    peak, moved = max(run.peak_bytes for run in runs), max(run.moved_bytes for run in runs)
    return Row(runs[0].action, seconds, peak, moved)


def write_random_model(folder: Path, name: str, shard_bytes: int) -> dict[str, TensorSpec]:
    """Write a published folder of random weights, one tensor in memory at a time."""
    from owl.convert.families import PUBLISHED, weight_table
    from owl.convert.files.safetensors_file import ShardedSafetensors

    text = (CONFIGS / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    model = build_node(ModelConfig, yaml.safe_load(text))
    folder.mkdir(parents=True)
    family = PUBLISHED[model.family]
    shapes = weight_table(family, model).shapes
    specs = {tensor: TensorSpec(shape, torch.bfloat16) for tensor, shape in shapes.items()}
    files = ShardedSafetensors(folder, specs, shard_bytes)
    for tensor, spec in specs.items():
        files.write(tensor, torch.empty(spec.shape, dtype=spec.dtype).normal_(std=0.02))
    files.close()
    config = family.write_config(model, "bfloat16")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return specs


def run_alone(action: str, folder: Path) -> Row:
    """Run one action in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.convert", "--action", action]
    done = subprocess.run(
        [*command, "--folder", str(folder)], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, peak, moved = done.stdout.split()[-3:]
    return Row(action, float(seconds), int(peak), int(moved))


def measure(action: str, folder: Path) -> None:
    """Run one action here and print its seconds, its peak of memory, and the bytes it moved."""
    os.sync()  # or what others have written would slow this down
    work = ACTIONS[action](folder)
    # Linux: forget the peak so far, which the imports made.
    Path("/proc/self/clear_refs").write_text("5")
    before, moved_before, start = memory("VmRSS"), moved_bytes(), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    print(seconds, memory("VmHWM") - before, moved_bytes() - moved_before)


def moved_bytes() -> int:
    """Bytes that this process has read and written so far."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"]) + int(counts["wchar"])


def memory(field: str) -> int:
    """Read a line of /proc/self/status in bytes: VmRSS is now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def copying(folder: Path) -> Callable[[], object]:
    """Read and write the bytes twice.

    Through this process: `shutil.copy` lets some file systems share the blocks and write nothing.
    And the copies stay, as what a conversion writes does: files that go at once cost no disk.
    """
    copies = [_without(folder / "copy1"), _without(folder / "copy2")]

    def work() -> None:
        for copy in copies:
            shutil.copytree(folder / "hf", copy, copy_function=_through_memory)

    return work


def _without(output: Path) -> Path:
    """Remove what the last round left."""
    shutil.rmtree(output, ignore_errors=True)
    return output


def _through_memory(source: str, target: str) -> None:
    with open(source, "rb") as reading, open(target, "wb") as writing:
        shutil.copyfileobj(reading, writing, MEGABYTE)


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

    output = _without(folder / "checkpoint")
    return lambda: import_checkpoint(folder / "hf", output)


def exporting(folder: Path) -> Callable[[], object]:
    """Checkpoint to published folder, in shards of the same size."""
    from owl.convert.to_hf import ExportOptions, export_checkpoint

    files = (folder / "hf").glob("*.safetensors")
    options = ExportOptions(shard_bytes=max(file.stat().st_size for file in files))
    output = _without(folder / "out")
    return lambda: export_checkpoint(folder / "checkpoint", output, options)


ACTIONS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "copy the bytes twice": copying,
    "load the complete folder": loading_whole,
    "import": importing,
    "export": exporting,
}


if __name__ == "__main__":
    sys.exit(main())
