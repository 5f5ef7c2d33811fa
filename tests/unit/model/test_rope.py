# SPDX-License-Identifier: Apache-2.0
"""Rotary positions are those of Qwen2, and stay exact in half precision."""

import pytest
import torch
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding, apply_rotary_pos_emb

from owl.model.rope import rotary, rotate

THETA = 1e6


def rotated(heads: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return rotate(
        heads, rotary(positions, head_dim=heads.shape[-1], theta=THETA, dtype=heads.dtype)
    )


def test_rotation_is_that_of_transformers():
    config = Qwen2Config(
        hidden_size=32,
        num_attention_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
    )
    positions = torch.tensor([0, 1, 5, 300, 4095])
    query, key = torch.randn(5, 4, 8), torch.randn(5, 2, 8)
    cos, sin = Qwen2RotaryEmbedding(config)(query, positions[None])
    expected = apply_rotary_pos_emb(
        query.transpose(0, 1)[None], key.transpose(0, 1)[None], cos, sin
    )

    for heads, theirs in zip((query, key), expected, strict=True):
        torch.testing.assert_close(rotated(heads, positions), theirs[0].transpose(0, 1))


def test_position_zero_turns_nothing():
    heads = torch.randn(2, 3, 8)

    assert torch.equal(rotated(heads, torch.zeros(2, dtype=torch.int64)), heads)


def test_scores_depend_on_the_distance_alone():
    query, key = torch.randn(2, 1, 1, 8, dtype=torch.float64)

    def score(at: int, seen_at: int) -> torch.Tensor:
        return (rotated(query, torch.tensor([at])) * rotated(key, torch.tensor([seen_at]))).sum()

    torch.testing.assert_close(score(12, 5), score(112, 105))
    assert not torch.isclose(score(12, 5), score(12, 6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_late_positions_stay_apart_in_half_precision(dtype):
    table = rotary(torch.arange(4096), head_dim=8, theta=THETA, dtype=dtype)

    assert table.cos.dtype == torch.float32
    assert len(torch.unique(torch.cat([table.cos, table.sin], 1), dim=0)) == 4096
    assert rotated(torch.ones(2, 1, 8, dtype=dtype), torch.tensor([4000, 4001])).dtype == dtype


def test_a_float64_model_turns_by_the_published_float32_frequencies():
    published = 1.0 / THETA ** (torch.arange(0, 8, 2).float() / 8)
    position = 4095

    table = rotary(torch.tensor([position]), head_dim=8, theta=THETA, dtype=torch.float64)

    assert table.sin.dtype == torch.float64
    assert torch.equal(table.sin[0, :4], (published.double() * position).sin())


def test_every_patch_of_a_tile_has_the_tiles_position():
    table = rotary(torch.tensor([3, 9]), head_dim=4, theta=THETA, dtype=torch.float32)

    repeated = table.repeat(3)

    assert torch.equal(repeated.cos, table.cos[[0, 0, 0, 1, 1, 1]])
    assert torch.equal(repeated.sin, table.sin[[0, 0, 0, 1, 1, 1]])
