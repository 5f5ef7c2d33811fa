# SPDX-License-Identifier: Apache-2.0
"""The three fusions follow their published formulas."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from owl.config.run import AttentionKind, ParallelConfig, Precision
from owl.families.owl3.config import FusionKind, HyperAttentionConfig
from owl.families.owl3.model import FUSIONS
from owl.mcore.transformer_config import decoder_config
from owl.model.attention.backend import attention_backend
from owl.model.media import PackContext, pack_context
from tests.tiny_run import tiny_model
from tests.unit.model.packs import PLACES, make_pack

HEADS, KV_HEADS, HEAD_DIM, PATCHES = 4, 2, 8, 4
ATTENTION = attention_backend(AttentionKind.per_sample)
Heads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def build(alone) -> Callable[[FusionKind], nn.Module]:
    def build(kind: FusionKind) -> nn.Module:
        fusion = FUSIONS[kind](
            config=decoder_config(tiny_model(), ParallelConfig(), Precision.fp64),
            heads_here=HEADS,
            head_dim=HEAD_DIM,
            pg_collection=alone.collection,
        )
        for parameter in fusion.parameters():
            nn.init.normal_(parameter)
        return fusion

    return build


@pytest.fixture
def pack() -> PackContext:
    model = tiny_model(hyper_attention=HyperAttentionConfig(media_position_shift=1))
    return pack_context(make_pack(PLACES), model, torch.float64)


@pytest.fixture
def heads(pack) -> Heads:
    tokens, patches = len(pack.position_ids), PATCHES * len(pack.media_position)
    counts = [(tokens, HEADS), *[(tokens, KV_HEADS)] * 2, *[(patches, KV_HEADS)] * 2]
    return tuple(torch.randn(*count, HEAD_DIM, dtype=torch.float64) for count in counts)


@pytest.fixture
def text(heads, pack) -> Tensor:
    return ATTENTION.text(*heads[:3], pack)


@pytest.fixture
def media(heads, pack) -> Tensor:
    return ATTENTION.media(heads[0], *heads[3:], pack)


@pytest.mark.parametrize("kind", [FusionKind.token_gate, FusionKind.static_gate], ids=str)
def test_a_token_that_sees_no_tile_keeps_its_text_output_bit_for_bit(
    build, kind, heads, pack, text
):
    fused = build(kind)(ATTENTION, *heads, pack)

    assert 0 < int(pack.sees_media.sum()) < len(pack.sees_media)
    assert torch.equal(fused[~pack.sees_media], text[~pack.sees_media])
    assert (fused[pack.sees_media] != text[pack.sees_media]).all()


def test_the_token_gate_reads_each_heads_own_text_output(build, heads, pack, text, media):
    gate = build(FusionKind.token_gate)

    fused = gate(ATTENTION, *heads, pack)

    for row in pack.sees_media.nonzero().squeeze(1).tolist():
        for head in range(HEADS):
            a, c = text[row, head], media[row, head]
            g = torch.sigmoid(gate.weight @ a + gate.bias)
            torch.testing.assert_close(fused[row, head], a * (1 - g) + c * g)


def test_the_static_gate_lies_head_after_head(build, heads, pack, text, media):
    gate = build(FusionKind.static_gate)

    fused = gate(ATTENTION, *heads, pack).flatten(1)

    sees, g = pack.sees_media, torch.sigmoid(gate.gate)
    expected = text.flatten(1)[sees] * (1 - g) + media.flatten(1)[sees] * g
    torch.testing.assert_close(fused[sees], expected)


def test_a_fresh_static_gate_mixes_half_and_half(alone, heads, pack, text, media):
    gate = FUSIONS[FusionKind.static_gate](
        config=decoder_config(tiny_model(), ParallelConfig(), Precision.fp64),
        heads_here=HEADS,
        head_dim=HEAD_DIM,
        pg_collection=alone.collection,
    )

    fused = gate(ATTENTION, *heads, pack)

    sees = pack.sees_media
    torch.testing.assert_close(fused[sees], (text[sees] + media[sees]) / 2)


def test_the_joint_softmax_is_plain_text_attention_where_no_tile_is_seen(build, heads, pack, text):
    fused = build(FusionKind.joint_softmax)(ATTENTION, *heads, pack)

    blind = ~pack.sees_media
    torch.testing.assert_close(fused[blind], text[blind], rtol=0, atol=1e-14)
    assert (fused[~blind] != text[~blind]).any(-1).all()


def test_the_joint_softmax_has_no_weights(build):
    assert list(build(FusionKind.joint_softmax).parameters()) == []


@pytest.mark.parametrize("kind", [FusionKind.token_gate, FusionKind.static_gate], ids=str)
def test_every_weight_of_a_gate_learns(build, kind, heads, pack):
    gate = build(kind)

    gate(ATTENTION, *heads, pack).sum().backward()

    assert all(parameter.grad.all() for parameter in gate.parameters())
