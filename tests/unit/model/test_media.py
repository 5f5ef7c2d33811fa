# SPDX-License-Identifier: Apache-2.0
"""Who sees what in a pack."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from owl.families.owl3.config import HyperAttentionConfig
from owl.model.media import PackContext, pack_context
from tests.tiny_run import tiny_model
from tests.unit.model.packs import Place, make_pack, places


def context(samples: list[Place], *, shift: int) -> PackContext:
    model = tiny_model(hyper_attention=HyperAttentionConfig(media_position_shift=shift))
    return pack_context(make_pack(samples), model, torch.float32)


def picture(visible: torch.Tensor) -> list[str]:
    """Draw a visibility table: x where the token (row) sees the tile or token (column)."""
    return ["".join("x" if seen else "." for seen in row) for row in visible.tolist()]


def test_a_token_sees_the_tiles_of_its_sample_from_their_position_on():
    pack = context([(4, [0, 2]), (2, []), (3, [1])], shift=1)

    assert picture(pack.media_visibility()) == [
        "...",
        "x..",
        "x..",
        "xx.",  # tile 1 starts at token 2 and is seen from token 3
        "...",
        "...",
        "...",
        "...",
        "..x",
    ]


def test_without_the_shift_the_first_placeholder_token_sees_its_tile():
    pack = context([(3, [1]), (2, [0])], shift=0)

    assert picture(pack.media_visibility()) == ["..", "x.", "x.", ".x", ".x"]


def test_a_tile_at_the_last_token_is_seen_by_nothing_under_shift_one():
    shifted, unshifted = (context([(3, [2])], shift=shift) for shift in (1, 0))

    assert picture(shifted.media_visibility()) == [".", ".", "."]
    assert picture(unshifted.media_visibility()) == [".", ".", "x"]


def test_text_is_causal_within_its_sample():
    pack = context([(2, []), (3, [0])], shift=1)

    assert picture(pack.text_visibility()) == ["x....", "xx...", "..x..", "..xx.", "..xxx"]


@given(samples=places(), shift=st.integers(0, 1))
def test_the_shortcuts_agree_with_the_table(samples, shift):
    pack = context(samples, shift=shift)

    table = pack.media_visibility()

    assert torch.equal(pack.sees_media, table.any(1))
    first_tile = 0
    for view in pack.samples:
        for tile, start in enumerate(view.visible_from):
            seen = table[view.rows, first_tile + tile]
            assert seen.tolist() == [token >= start for token in range(view.num_tokens)]
        first_tile += len(view.visible_from)


@given(samples=places())
def test_views_cover_rows_and_keys_without_gaps(samples):
    pack = context(samples, shift=1)

    row = key = 0
    for view, (length, offsets) in zip(pack.samples, samples, strict=True):
        assert view.rows == slice(row, row + length)
        assert view.keys == slice(key, key + 4 * len(offsets))
        row, key = view.rows.stop, view.keys.stop


def test_a_tiles_angle_counts_from_the_start_of_its_own_sample():
    alone = context([(6, [3])], shift=1)
    packed = context([(5, [1]), (6, [3])], shift=1)

    assert torch.equal(packed.media_rotary.cos[1], alone.media_rotary.cos[0])
    assert torch.equal(alone.media_rotary.sin[0], alone.text_rotary.sin[4])
