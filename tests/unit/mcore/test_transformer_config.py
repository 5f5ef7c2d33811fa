# SPDX-License-Identifier: Apache-2.0
"""Our configs as megatron-core sees them."""

import pytest
import torch

from owl.config.run import ParallelConfig, Precision, Recompute, TowerKind, VisionTowerConfig
from owl.mcore.transformer_config import (
    DTYPES,
    decoder_config,
    padded_vocab_size,
    tower_config,
)
from tests.tiny_run import tiny_model


@pytest.mark.parametrize(
    ("vocab_size", "tensor", "padded"),
    [(151851, 1, 151851), (151851, 2, 151852), (151851, 4, 151852), (151936, 4, 151936), (1, 4, 4)],
)
def test_the_vocabulary_is_padded_no_further_than_the_tensor_ranks_need(vocab_size, tensor, padded):
    assert padded_vocab_size(vocab_size, tensor) == padded


def test_the_decoder_is_a_qwen2():
    config = decoder_config(tiny_model(), ParallelConfig(), Precision.fp32)

    assert (config.num_attention_heads, config.num_query_groups, config.kv_channels) == (4, 2, 8)
    assert (config.normalization, config.gated_linear_unit) == ("RMSNorm", True)
    assert (config.add_bias_linear, config.add_qkv_bias) == (False, True)
    assert config.activation_func is torch.nn.functional.silu


def test_the_tower_has_one_layer_less_than_its_checkpoint():
    model = tiny_model()

    config = tower_config(model, ParallelConfig(), Precision.fp32)

    assert config.num_layers == model.vision_tower.num_layers - 1
    assert (config.normalization, config.add_bias_linear) == ("LayerNorm", True)


@pytest.mark.parametrize(
    ("kind", "published"),
    [(TowerKind.siglip, "gelu_pytorch_tanh"), (TowerKind.clip, "quick_gelu")],
    ids=str,
)
def test_the_towers_activation_is_the_published_one(kind, published):
    from transformers.activations import ACT2FN

    model = tiny_model(vision_tower=VisionTowerConfig(kind=kind))
    config = tower_config(model, ParallelConfig(), Precision.fp32)
    values = torch.linspace(-4, 4, 33)

    assert torch.equal(config.activation_func(values), ACT2FN[published](values))


@pytest.mark.parametrize("build", [decoder_config, tower_config])
@pytest.mark.parametrize("precision", list(Precision), ids=str)
def test_precision_sets_dtype_and_flags(build, precision):
    config = build(tiny_model(), ParallelConfig(), precision)

    assert config.params_dtype == DTYPES[precision]
    assert config.bf16 == (precision is Precision.bf16)
    assert config.fp16 == (precision is Precision.fp16)


@pytest.mark.parametrize(
    ("recompute", "granularity"),
    [(Recompute.none, None), (Recompute.selective, "selective"), (Recompute.full, "full")],
    ids=str,
)
def test_recompute_is_handed_on(recompute, granularity):
    config = decoder_config(tiny_model(), ParallelConfig(recompute=recompute), Precision.fp32)

    assert config.recompute_granularity == granularity


def test_stages_agree_on_shapes_as_they_go():
    model = tiny_model()

    alone = decoder_config(model, ParallelConfig(), Precision.fp32)
    staged = decoder_config(model, ParallelConfig(pipeline=2), Precision.bf16)

    assert not alone.variable_seq_lengths
    assert staged.variable_seq_lengths
    assert staged.pipeline_dtype == torch.bfloat16
