# SPDX-License-Identifier: Apache-2.0
"""Every re-layout moves rows only, and its inverse moves them back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from owl.convert.tables.layouts import (
    merge_gate_up,
    merge_media_kv,
    merge_qkv,
    split_gate_up,
    split_qkv,
)

KV_HEADS = st.integers(1, 3)
QUERIES = st.integers(1, 4)  # query heads per key-value head
HEAD_DIM = st.integers(1, 3)
COLUMNS = st.sampled_from([(), (2,)])  # a bias, a weight


def rows(count: int, columns: tuple[int, ...], first: int = 0) -> torch.Tensor:
    """Rows that are all different."""
    numbers = torch.arange(first, first + count)
    return numbers.view(-1, *(1 for _ in columns)).expand(count, *columns)


@given(kv_heads=KV_HEADS, queries=QUERIES, head_dim=HEAD_DIM, columns=COLUMNS)
def test_splitting_undoes_merging_of_query_key_and_value(kv_heads, queries, head_dim, columns):
    size = kv_heads * head_dim
    parts = (
        rows(queries * size, columns),
        rows(size, columns, first=1000),
        rows(size, columns, first=2000),
    )

    merged = merge_qkv(*parts, kv_heads)

    assert len(merged) == (queries + 2) * size
    again = split_qkv(merged, queries * kv_heads, kv_heads)
    assert all(torch.equal(part, back) for part, back in zip(parts, again, strict=True))


@given(kv_heads=KV_HEADS, head_dim=HEAD_DIM, columns=COLUMNS)
def test_media_keys_and_values_alternate_head_by_head(kv_heads, head_dim, columns):
    parts = rows(kv_heads * head_dim, columns), rows(kv_heads * head_dim, columns, first=1000)

    merged = merge_media_kv(*parts, kv_heads)

    again = merged.unflatten(0, (kv_heads, 2, -1)).unbind(dim=1)
    assert all(
        torch.equal(part, back.flatten(0, 1)) for part, back in zip(parts, again, strict=True)
    )


@given(width=st.integers(1, 5), columns=COLUMNS)
def test_splitting_undoes_merging_of_gate_and_up(width, columns):
    parts = rows(width, columns), rows(width, columns, first=1000)

    again = split_gate_up(merge_gate_up(*parts))

    assert all(torch.equal(part, back) for part, back in zip(parts, again, strict=True))


def test_merged_attention_lies_group_by_group():
    query, key, value = torch.arange(4), torch.tensor([10, 11]), torch.tensor([20, 21])

    merged = merge_qkv(query, key, value, num_kv_heads=2)

    assert merged.tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


def test_merged_media_rows_lie_head_by_head_key_before_value():
    key, value = torch.arange(4), torch.arange(10, 14)

    merged = merge_media_kv(key, value, num_kv_heads=2)

    assert merged.tolist() == [0, 1, 10, 11, 2, 3, 12, 13]


@pytest.mark.parametrize("tp_size", [1, 2])
def test_a_ranks_slice_of_merged_rows_holds_whole_groups(tp_size):
    query, key, value = torch.arange(8), torch.arange(10, 12), torch.arange(20, 22)

    shares = merge_qkv(query, key, value, num_kv_heads=2).chunk(tp_size)

    parts = [split_qkv(share, 8 // tp_size, 2 // tp_size) for share in shares]
    assert [torch.cat(column).tolist() for column in zip(*parts, strict=True)] == [
        query.tolist(),
        key.tolist(),
        value.tolist(),
    ]
