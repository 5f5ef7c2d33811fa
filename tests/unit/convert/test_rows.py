# SPDX-License-Identifier: Apache-2.0
"""Weights put together from spans of rows are those that the re-layouts make."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from owl.checkpoint.tensor_spec import TensorSpec
from owl.convert.tables.rows import RowSpan, row_ranges, row_spans
from owl.families.owl3.config import FusionKind
from owl.families.owl3.published import entries
from tests.tiny_run import tiny_model


@pytest.mark.parametrize("fusion", FusionKind)
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (4, 1)])
def test_spans_name_the_rows_that_the_layout_moves(fusion, heads):
    model = tiny_model(fusion, num_attention_heads=heads[0], num_kv_heads=heads[1])

    for entry in entries(model):
        published = dict(zip(entry.published, map(torch.randn, entry.shapes), strict=True))
        ours = torch.full_like(entry.to_ours(tuple(published.values())), float("nan"))
        spans = row_spans(entry)
        for span in spans:
            rows = published[span.published][span.first : span.first + span.rows]
            ours[span.ours : span.ours + span.rows] = rows

        assert torch.equal(ours, entry.to_ours(tuple(published.values()))), entry.ours
        assert sum(span.rows for span in spans) == len(ours), "no row twice"


def test_rows_side_by_side_are_one_span():
    model = tiny_model(num_attention_heads=4, num_kv_heads=2)
    spans = {entry.ours: row_spans(entry) for entry in entries(model)}
    layer = "language_model.model.layers.0"

    assert spans["embedding.word_embeddings.weight"] == [
        RowSpan(0, "language_model.model.embed_tokens.weight", 0, 259)
    ]
    assert spans["decoder.layers.0.mlp.linear_fc1.weight"] == [
        RowSpan(0, f"{layer}.mlp.gate_proj.weight", 0, 48),
        RowSpan(48, f"{layer}.mlp.up_proj.weight", 0, 48),
    ]
    query, key, value = (f"{layer}.self_attn.{part}_proj.weight" for part in "qkv")
    assert spans["decoder.layers.0.self_attention.linear_qkv.weight"] == [
        RowSpan(0, query, 0, 16), RowSpan(16, key, 0, 8), RowSpan(24, value, 0, 8),
        RowSpan(32, query, 16, 16), RowSpan(48, key, 8, 8), RowSpan(56, value, 8, 8),
    ]  # fmt: skip


def test_a_span_is_cut_at_both_ends():
    span = RowSpan(ours=10, published="a", first=100, rows=5)

    assert span.within(0, 10) is span.within(15, 20) is None
    assert span.within(0, 12) == RowSpan(10, "a", 100, 2)
    assert span.within(12, 14) == RowSpan(12, "a", 102, 2)
    assert span.within(13, 99) == RowSpan(13, "a", 103, 2)


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 5000))
def test_ranges_cover_all_rows_and_keep_their_bound(rows, row_bytes, most):
    ranges = list(row_ranges(TensorSpec((rows, row_bytes), torch.uint8), most))

    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(rows))
    assert all((stop - start) * row_bytes <= max(most, row_bytes) for start, stop in ranges)
