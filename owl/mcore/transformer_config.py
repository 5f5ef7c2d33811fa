# SPDX-License-Identifier: Apache-2.0
"""Our configs to megatron-core's TransformerConfig: one for the decoder, one for the tower."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig

from owl.config.run import ModelConfig, ParallelConfig, Precision, Recompute, VisionParallelism
from owl.mcore.random_start import RandomStart
from owl.model.families import BUILDS

DTYPES = {
    Precision.fp32: torch.float32,
    Precision.bf16: torch.bfloat16,
    Precision.fp16: torch.float16,
    Precision.fp64: torch.float64,
}


def decoder_config(
    model: ModelConfig, parallel: ParallelConfig, precision: Precision
) -> TransformerConfig:
    """Describe the decoder to megatron-core."""
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_kv_heads,
        kv_channels=model.head_dim,
        layernorm_epsilon=model.rms_norm_eps,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        **BUILDS[model.family].decoder_settings(model),
        **_random_start(model.init_std, model.num_layers),
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=(
            parallel.virtual_pipeline if parallel.virtual_pipeline > 1 else None
        ),
        # One message at a time between two ranks: with two stages each is the other's next *and*
        # previous, and a batch of sends and receives would be matched the wrong way round.
        overlap_p2p_comm=parallel.virtual_pipeline > 1,
        batch_p2p_comm=parallel.virtual_pipeline == 1,
        num_layers_in_first_pipeline_stage=parallel.first_stage_layers,
        num_layers_in_last_pipeline_stage=parallel.last_stage_layers,
        pipeline_dtype=DTYPES[precision],
        # A row is as long as its samples: stages agree on shapes as they go.
        variable_seq_lengths=parallel.pipeline > 1,
        moe_token_dispatcher_type="alltoall",  # there is no MoE, but variable lengths ask for it
        sequence_parallel=parallel.sequence,
        **_recompute(parallel.recompute),
        **_shared(parallel.tensor, precision),
    )


def tower_config(
    model: ModelConfig, parallel: ParallelConfig, precision: Precision
) -> TransformerConfig:
    """Describe the tower to megatron-core. All of it is on the first pipeline stage."""
    tower, settings = model.vision_tower, BUILDS[model.family].tower_settings(model)
    replicated = tower.parallelism is VisionParallelism.image
    return TransformerConfig(
        **settings,
        hidden_size=tower.hidden_size,
        ffn_hidden_size=tower.ffn_hidden_size,
        num_attention_heads=tower.num_attention_heads,
        kv_channels=tower.hidden_size // tower.num_attention_heads,
        layernorm_epsilon=tower.layer_norm_eps,
        normalization="LayerNorm",
        add_bias_linear=True,
        **_random_start(model.init_std, tower.num_layers),
        **_recompute(parallel.recompute_tower),
        **_shared(1 if replicated else parallel.tensor, precision),
    )


def padded_vocab_size(vocab_size: int, tensor: int) -> int:
    """Round up to what a tensor-parallel degree can share; the padding is never saved."""
    return -(-vocab_size // tensor) * tensor


def _random_start(std: float, num_layers: int) -> dict[str, Any]:
    """Normal weights; those that write to the residual stream smaller, as GPT-2's."""
    return {
        "init_method": RandomStart(std),
        "output_layer_init_method": RandomStart(std / math.sqrt(2 * num_layers)),
        "embedding_init_method": RandomStart(std),
    }


def _recompute(kind: Recompute) -> dict[str, Any]:
    if kind is Recompute.full:
        return {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        }
    if kind is Recompute.selective:
        return {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    return {}


def _shared(tensor: int, precision: Precision) -> dict[str, Any]:
    """What tower and decoder have in common: layout, number format, and no fused CUDA extras."""
    return {
        "tensor_model_parallel_size": tensor,
        "params_dtype": DTYPES[precision],
        "bf16": precision is Precision.bf16,
        "fp16": precision is Precision.fp16,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "use_cpu_initialization": True,  # the provider decides by device
        "gradient_accumulation_fusion": False,
        "masked_softmax_fusion": False,
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "apply_rope_fusion": False,
        "deallocate_pipeline_outputs": False,
        "cuda_graph_scope": [],  # the default is deprecated and warns each time
        # The loss is already divided by the weight of the global batch.
        "calculate_per_token_loss": True,
        "hetereogenous_dist_checkpoint": True,  # mcore's spelling; hyper layers differ from others
    }
