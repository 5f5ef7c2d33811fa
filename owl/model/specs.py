# SPDX-License-Identifier: Apache-2.0
"""Which class fills each slot of megatron-core's layers: the parts that families share."""

from functools import partial

from megatron.core.extensions.transformer_engine import HAVE_TE
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import nn

from owl.config.run import LayerBackend, ModelConfig
from owl.model.attention.backend import attention_backend
from owl.model.norm import LayerNorm, RMSNorm
from owl.model.self_attention import CoreAttention, PackedSelfAttention
from owl.model.tower.tile_attention import TileSelfAttention


def text_layer(model: ModelConfig) -> ModuleSpec:
    """Describe a decoder layer that attends to text alone: RMSNorm, rotary positions, SwiGLU."""
    column, row = linears(model.layer_backend)
    attention = ModuleSpec(
        module=PackedSelfAttention,
        submodules=SelfAttentionSubmodules(
            linear_qkv=column, core_attention=core_attention(model), linear_proj=row
        ),
    )
    return layer(TransformerLayer, RMSNorm, attention, model)


def tile_layer(model: ModelConfig) -> ModuleSpec:
    """Describe a tower layer in which every patch sees its entire tile: pre-norm, biases."""
    column, row = linears(model.layer_backend)
    attention = ModuleSpec(
        module=TileSelfAttention,
        submodules=SelfAttentionSubmodules(
            linear_qkv=column, core_attention=partial(CoreAttention, backend=None), linear_proj=row
        ),
    )
    return layer(TransformerLayer, LayerNorm, attention, model)


def layer(
    kind: type[TransformerLayer], norm: type[nn.Module], attention: ModuleSpec, model: ModelConfig
) -> ModuleSpec:
    """Describe a transformer layer around an attention.

    Args:
        kind: megatron-core's layer, or one derived from it.
        norm: of both halves.
        attention: fills the self-attention slot.
        model: names the backend of its linear layers.
    """
    column, row = linears(model.layer_backend)
    return ModuleSpec(
        module=kind,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
            mlp=ModuleSpec(module=MLP, submodules=MLPSubmodules(linear_fc1=column, linear_fc2=row)),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def core_attention(model: ModelConfig) -> partial[CoreAttention]:
    """Choose what computes attention over packs."""
    return partial(CoreAttention, backend=attention_backend(model.attention))


def linears(backend: LayerBackend) -> tuple[type[nn.Module], type[nn.Module]]:
    """Choose column- and row-parallel linear layers. The config check has asked for TE."""
    if backend is LayerBackend.transformer_engine and HAVE_TE:
        from megatron.core.extensions.transformer_engine import (
            TEColumnParallelLinear,
            TERowParallelLinear,
        )

        return TEColumnParallelLinear, TERowParallelLinear
    return ColumnParallelLinear, RowParallelLinear
