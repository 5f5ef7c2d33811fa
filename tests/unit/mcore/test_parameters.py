# SPDX-License-Identifier: Apache-2.0
"""Full tensors to a rank's shard and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from torch import nn

from owl.config.run import ParallelConfig, Precision
from owl.mcore.parameters import global_names, load_full, merge_shards, shard_of, unwrapped
from owl.mcore.provider import build_model, wrap_for_training
from tests.tiny_run import EVERYTHING, tiny_model


def sharded_parameter(shape: tuple[int, ...], *, dim: int, stride: int = 1) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(shape))
    set_tensor_model_parallel_attributes(parameter, True, dim, stride)
    return parameter


def shards_of(full: torch.Tensor, parameter: nn.Parameter, tp_size: int) -> list[torch.Tensor]:
    return [shard_of(full, parameter, tp_rank=r, tp_size=tp_size) for r in range(tp_size)]


@given(
    tp_size=st.sampled_from([1, 2, 4]),
    dim=st.integers(0, 1),
    stride=st.integers(1, 2),
    piece=st.integers(1, 3),
)
def test_shares_put_together_are_the_whole(tp_size, dim, stride, piece):
    mine, other = stride * piece, 3
    parameter = sharded_parameter(
        (mine, other) if dim == 0 else (other, mine), dim=dim, stride=stride
    )
    shape = list(parameter.shape)
    shape[dim] *= tp_size
    full = torch.randn(shape)

    shards = shards_of(full, parameter, tp_size)

    assert all(shard.shape == parameter.shape for shard in shards)
    assert torch.equal(merge_shards(shards, parameter), full)


def test_each_rank_gets_its_part_of_both_halves_of_swiglu():
    gate, up = torch.arange(4), torch.arange(4) + 100
    parameter = sharded_parameter((4,), dim=0, stride=2)

    shards = shards_of(torch.cat([gate, up]), parameter, tp_size=2)

    assert [shard.tolist() for shard in shards] == [[0, 1, 100, 101], [2, 3, 102, 103]]


def test_the_vocabulary_is_padded_with_zero_rows():
    embedding = torch.arange(1.0, 8)[:, None]  # 7 words
    parameter = sharded_parameter((4, 1), dim=0)

    shards = shards_of(embedding, parameter, tp_size=2)

    assert [shard.squeeze(1).tolist() for shard in shards] == [[1, 2, 3, 4], [5, 6, 7, 0]]


def test_a_tensor_that_is_much_too_short_is_not_taken_for_an_unpadded_vocabulary():
    parameter = sharded_parameter((4, 1), dim=0)

    shard = shard_of(torch.ones(4, 1), parameter, tp_rank=1, tp_size=2)

    assert shard.shape != parameter.shape


def test_a_parameter_that_is_not_shared_is_whole_everywhere():
    parameter, full = nn.Parameter(torch.zeros(3)), torch.randn(3)

    shards = shards_of(full, parameter, tp_size=2)

    assert all(torch.equal(shard, full) for shard in shards)
    assert torch.equal(merge_shards(shards, parameter), full)


@pytest.fixture(scope="module")
def chunks(alone):
    return build_model(tiny_model(), ParallelConfig(), Precision.fp32, alone)


def test_names_are_those_of_the_unwrapped_model(chunks):
    wrapped = wrap_for_training(
        chunks, EVERYTHING, ParallelConfig(), precision=Precision.fp32, distributed_optimizer=False
    )

    names = [name for name, _ in global_names(wrapped)]

    assert unwrapped(wrapped[0]) is chunks[0]
    assert "decoder.layers.3.self_attention.linear_media_kv.weight" in names
    assert names == [name for name, _ in chunks[0].named_parameters()]


def test_loading_fills_the_named_parameters_and_tells_the_others(chunks):
    name = "decoder.final_layernorm.weight"
    everything = {name for name, _ in global_names(chunks)}
    weights = [(name, torch.full((32,), 3.0)), ("not.here", torch.ones(1))]

    left = load_full(chunks, weights)

    assert set(left) == everything - {name}
    assert torch.equal(dict(global_names(chunks))[name], torch.full((32,), 3.0))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("decoder.final_layernorm.weight", (31,)), ("output_layer.weight", (200, 32))],
)
def test_a_weight_of_another_shape_is_refused_by_name(chunks, name, shape):
    with pytest.raises(ValueError, match=name):
        load_full(chunks, [(name, torch.ones(shape))])
