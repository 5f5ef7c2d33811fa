# SPDX-License-Identifier: Apache-2.0
import re

from tests.unit.data_tools.command import run_tool


def test_the_window_packer_beats_the_others_on_both_mixes():
    result = run_tool("benchmarks/packing.py", "--samples", 4096, "--ranks", 4)
    found = re.findall(r"(next-fit|knapsack|dot product) +([\d.]+)%", result.stdout)
    assert [name for name, _ in found] == ["next-fit", "knapsack", "dot product"] * 2
    shares = [float(share) for _, share in found]
    assert shares[2] > 94 > max(shares[:2])
    assert shares[5] > 98 > max(shares[3:5])


def test_lengths_are_read_from_a_table(tmp_path):
    table = tmp_path / "lengths.csv"
    table.write_text("tokens,tiles\n100,4\n100,0\n50,2\n50,2\n500,0\n")
    result = run_tool(
        "benchmarks/packing.py", "--lengths", table, "--text-tokens", 200, "--tiles", 4
    )
    assert "lengths.csv: 4 samples, 200 tokens and 4 tiles a pack" in result.stdout
    assert "1 samples exceed a budget by themselves" in result.stdout
