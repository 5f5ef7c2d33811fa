# SPDX-License-Identifier: Apache-2.0
"""FlexAttention's tables, expanded on a CPU: who sees what, and which blocks are computed.

The kernel itself needs a GPU: tests/gpu/test_attention.py.
"""

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask

from owl.config.run import AttentionKind
from owl.model.attention import flex as flex_module
from owl.model.attention.backend import attention_backend
from owl.model.attention.flex import FlexAttention, padded_length
from owl.model.media import PackContext
from tests.unit.model.packs import PLACES, places
from tests.unit.model.test_attention import PATCHES, attend, context, heads_for

KINDS = pytest.mark.parametrize("kind", ["text", "media", "joint"])
REFERENCE = attention_backend(AttentionKind.reference)


def blocks(counts: torch.Tensor, indices: torch.Tensor) -> list[list[int]]:
    """The blocks that a table lists for each block of rows (or, transposed, of keys)."""
    return [row[:count].tolist() for count, row in zip(counts[0, 0], indices[0, 0], strict=True)]


def expanded(mask: BlockMask) -> torch.Tensor:
    """What the kernel computes: full blocks whole, partial ones by the predicate, others not."""
    rows, keys = mask.seq_lengths
    size = mask.BLOCK_SIZE[0]
    dense = torch.zeros(rows, keys, dtype=torch.bool)
    predicate = mask.mask_mod(0, 0, torch.arange(rows)[:, None], torch.arange(keys)[None, :])
    for q, listed in enumerate(blocks(mask.kv_num_blocks, mask.kv_indices)):
        for k in listed:
            place = slice(q * size, (q + 1) * size), slice(k * size, (k + 1) * size)
            dense[place] = predicate[place]
    for q, listed in enumerate(blocks(mask.full_kv_num_blocks, mask.full_kv_indices)):
        for k in listed:
            dense[q * size : (q + 1) * size, k * size : (k + 1) * size] = True
    return dense


def padded_visibility(kind: str, pack: PackContext, block_size: int) -> torch.Tensor:
    """The predicate of the pack, with rows and groups of keys padded as the mask has them."""
    media = pack.media_visibility().repeat_interleave(PATCHES, dim=1)
    groups = {
        "text": [pack.text_visibility()],
        "media": [media],
        "joint": [media, pack.text_visibility()],
    }[kind]
    rows = padded_length(len(pack.position_ids), block_size)
    parts = []
    for group in groups:
        part = torch.zeros(rows, padded_length(group.shape[1], block_size), dtype=torch.bool)
        part[: group.shape[0], : group.shape[1]] = group
        parts.append(part)
    return torch.cat(parts, dim=1)


@KINDS
@settings(max_examples=60)
@given(samples=places(), shift=st.integers(0, 1), block_size=st.sampled_from([1, 2, 4, 8]))
def test_the_tables_expand_to_the_predicate(kind, samples, shift, block_size):
    pack = context(samples, shift=shift)

    mask = FlexAttention(block_size).mask(kind, pack)

    assert torch.equal(expanded(mask), padded_visibility(kind, pack, block_size))


@KINDS
@settings(max_examples=40)
@given(samples=places(), shift=st.integers(0, 1), block_size=st.sampled_from([2, 4]))
def test_a_block_is_full_where_it_can_be_and_absent_where_nothing_is_seen(
    kind, samples, shift, block_size
):
    # A tile that lies past its sample's end is seen by no row, but may have its block looked at.
    samples = [(length, [o for o in offsets if o + shift < length]) for length, offsets in samples]
    pack = context(samples, shift=shift)
    mask = FlexAttention(block_size).mask(kind, pack)
    dense = padded_visibility(kind, pack, block_size)
    by_block = dense.reshape(
        len(dense) // block_size, block_size, dense.shape[1] // block_size, block_size
    )
    tiles = by_block.transpose(1, 2).flatten(2)

    partial = blocks(mask.kv_num_blocks, mask.kv_indices)
    full = blocks(mask.full_kv_num_blocks, mask.full_kv_indices)

    for q, row in enumerate(tiles):
        assert full[q] == row.all(-1).nonzero().flatten().tolist()
        assert partial[q] == (row.any(-1) & ~row.all(-1)).nonzero().flatten().tolist()


@KINDS
def test_the_backward_tables_list_the_same_blocks(kind):
    mask = FlexAttention(2).mask(kind, context(PLACES))

    for forward, backward in [
        (blocks(mask.kv_num_blocks, mask.kv_indices), blocks(mask.q_num_blocks, mask.q_indices)),
        (
            blocks(mask.full_kv_num_blocks, mask.full_kv_indices),
            blocks(mask.full_q_num_blocks, mask.full_q_indices),
        ),
    ]:
        pairs = {(q, k) for q, listed in enumerate(forward) for k in listed}
        assert pairs == {(q, k) for k, listed in enumerate(backward) for q in listed}


@KINDS
@pytest.mark.parametrize("places", [PLACES, [(3, []), (2, [])]], ids=["tiles", "text only"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_torchs_own_eager_flex_attention_agrees_under_these_masks(kind, places):
    heads, pack = heads_for(places), context(places)

    with torch.no_grad():
        out = attend(FlexAttention(4), kind, heads, pack)

    expected = attend(REFERENCE, kind, heads, pack)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_lengths_fall_into_few_kinds_and_pad_at_most_a_half():
    lengths = range(1, 300_000, 77)

    padded = [padded_length(length, 128) for length in lengths]

    assert all(p % 128 == 0 for p in padded)
    assert all(n <= p <= max(128, 1.5 * n + 128) for n, p in zip(lengths, padded, strict=True))
    assert len(set(padded)) <= 24
    assert padded_length(0, 128) == 0


def test_layers_share_a_packs_masks_which_go_with_the_pack():
    flex, pack = FlexAttention(4), context(PLACES)

    assert flex.mask("joint", pack) is flex.mask("joint", pack)
    assert flex.mask("joint", context(PLACES)) is not flex.mask("joint", pack)
    del pack
    gc.collect()
    assert flex._masks == {}


def test_packs_of_like_lengths_share_a_compiled_graph(monkeypatch):
    # A graph without a kernel behind it: what is traced, and when again, shows on a CPU too.
    traced = torch.compile(flex_module.flex_attention, backend="eager", dynamic=False)
    monkeypatch.setattr(flex_module, "flex_attention", traced)
    torch._dynamo.utils.counters.clear()
    graphs = []

    for samples in ([(60, [3])], [(30, [5]), (33, [])], [(65, [3])]):
        with torch.no_grad():
            attend(FlexAttention(64), "joint", heads_for(samples), context(samples))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    assert graphs == [1, 1, 2]  # the last pack has a token more than the block


def test_the_mask_of_a_big_pack_is_small():
    places = [(512, [0, 100, 200, 300])] * 8
    pack = context(places)

    mask = FlexAttention().mask("joint", pack)

    tables = [value for value in mask.as_tuple() if isinstance(value, torch.Tensor)]
    size = sum(table.numel() * table.element_size() for table in tables)
    dense = len(pack.position_ids) * (len(pack.position_ids) + PATCHES * 32)
    assert size < dense / 100
