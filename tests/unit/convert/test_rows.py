# SPDX-License-Identifier: Apache-2.0
"""Weights put together from runs of rows are those that the re-layouts make."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from owl.checkpoint.tensor_spec import TensorSpec
from owl.convert.rows import RowSpan, row_ranges, row_runs
from owl.convert.shapes import published_shapes
from owl.families.owl3.config import FusionKind
from owl.families.owl3.published import entries
from tests.tiny_run import tiny_model


@pytest.mark.parametrize("fusion", FusionKind)
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (4, 1)])
def test_runs_name_the_rows_that_the_layout_moves(fusion, heads):
    model = tiny_model(fusion, num_attention_heads=heads[0], num_kv_heads=heads[1])
    shapes = published_shapes(model)

    for entry in entries(model):
        published = {name: torch.randn(shapes[name]) for name in entry.published}
        ours = torch.full_like(entry.to_ours(tuple(published.values())), float("nan"))
        runs = row_runs(entry, shapes)
        for run in runs:
            rows = published[run.published][run.first : run.first + run.rows]
            ours[run.ours : run.ours + run.rows] = rows

        assert torch.equal(ours, entry.to_ours(tuple(published.values()))), entry.ours
        assert sum(run.rows for run in runs) == len(ours), "no row twice"


def test_rows_side_by_side_are_one_run():
    model = tiny_model(num_attention_heads=4, num_kv_heads=2)
    runs = {entry.ours: row_runs(entry, published_shapes(model)) for entry in entries(model)}
    layer = "language_model.model.layers.0"

    assert runs["embedding.word_embeddings.weight"] == [
        RowSpan(0, "language_model.model.embed_tokens.weight", 0, 259)
    ]
    assert runs["decoder.layers.0.mlp.linear_fc1.weight"] == [
        RowSpan(0, f"{layer}.mlp.gate_proj.weight", 0, 48),
        RowSpan(48, f"{layer}.mlp.up_proj.weight", 0, 48),
    ]
    query, key, value = (f"{layer}.self_attn.{part}_proj.weight" for part in "qkv")
    assert runs["decoder.layers.0.self_attention.linear_qkv.weight"] == [
        RowSpan(0, query, 0, 16), RowSpan(16, key, 0, 8), RowSpan(24, value, 0, 8),
        RowSpan(32, query, 16, 16), RowSpan(48, key, 8, 8), RowSpan(56, value, 8, 8),
    ]  # fmt: skip


def test_a_run_is_cut_at_both_ends():
    run = RowSpan(ours=10, published="a", first=100, rows=5)

    assert run.within(0, 10) is run.within(15, 20) is None
    assert run.within(0, 12) == RowSpan(10, "a", 100, 2)
    assert run.within(12, 14) == RowSpan(12, "a", 102, 2)
    assert run.within(13, 99) == RowSpan(13, "a", 103, 2)


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 5000))
def test_ranges_cover_all_rows_and_keep_their_bound(rows, row_bytes, most):
    ranges = list(row_ranges(TensorSpec((rows, row_bytes), torch.uint8), most))

    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(rows))
    assert all((stop - start) * row_bytes <= max(most, row_bytes) for start, stop in ranges)
