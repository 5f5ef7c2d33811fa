# SPDX-License-Identifier: Apache-2.0
"""The layouts whose budgets are recorded, and what a budget holds."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

BUDGETS = Path(__file__).with_name("budgets.json")
PACKS = [
    *("pack.enabled=true", "pack.text_tokens=8192", "pack.tiles=64", "scale=published"),
    *("model.attention=flex", "parallel.recompute=none", "rehearse.micro_batches=1"),
]
LAYOUTS: dict[str, list[str]] = {
    "2B stage 2, one GPU": ["model=owl3_2b_241014", "+experiment=stage2"],
    "7B stage 2, TP4 DP16": [
        *("model=owl3_7b_240728", "+experiment=stage2", "parallel=tp4"),
        *("rehearse.gpus=64", "rehearse.device=h100"),
    ],
}


def rehearse(words: list[str], folder: Path) -> dict[str, Any]:
    """Run the command and return the figures of its first rank."""
    output = folder / "figures.json"
    command = [sys.executable, "-m", "owl.rehearse", *words, f"rehearse.json={output}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    figures: dict[str, Any] = json.loads(output.read_text())[0]
    return figures


def budget(figures: dict[str, Any]) -> dict[str, Any]:
    """What must not grow unnoticed: line numbers are left out, since they move."""
    return {
        "peak_bytes": figures["peak_bytes"],
        "kernels": figures["kernels"],
        "collectives": figures["collectives"],
        "waits": _without_lines(figures["waits"]),
        "blocking_copies": _without_lines(figures["blocking_copies"]),
    }


def _without_lines(counts: dict[str, int]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for name, count in counts.items():
        place = re.sub(r":\d+$", "", name)
        totals[place] = totals.get(place, 0) + count
    return dict(sorted(totals.items()))
