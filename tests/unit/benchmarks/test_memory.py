# SPDX-License-Identifier: Apache-2.0
"""The memory benchmarks count bytes exactly, and fail where memory grows with the product."""

import pytest
import torch

from benchmarks import attention_memory, loss_memory
from benchmarks.peak_bytes import growths, peak_bytes, table


def test_the_peak_is_what_lives_at_one_time():
    def compute() -> torch.Tensor:
        first = torch.empty(1000)
        second = torch.empty(500)
        del first
        return torch.empty(200) + second[:200]

    assert peak_bytes(compute) == 4 * (1000 + 500)


def test_growths_are_factors():
    assert growths([2, 4, 6]) == [2.0, 1.5]


def test_bytes_are_shown_in_the_unit_of_their_column():
    assert table(["n", "a KiB"], [(1000, 2048)]).split() == ["n", "a", "KiB", "1,000", "2.00"]


def test_attention_grows_with_the_sum_over_samples(capsys):
    assert attention_memory.main(samples=(2, 4)) == 0
    assert "NOT" not in capsys.readouterr().out


@pytest.mark.parametrize(("rows_per_chunk", "status"), [(16, 0), (1024, 1)])
def test_the_loss_grows_as_claimed_only_in_chunks(rows_per_chunk, status, capsys):
    sizes = ((256, 1024), (512, 2048))

    assert loss_memory.main(sizes=sizes, rows_per_chunk=rows_per_chunk) == status
    assert ("NOT as claimed" in capsys.readouterr().out) == bool(status)
