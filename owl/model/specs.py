# SPDX-License-Identifier: Apache-2.0
"""Which class fills each slot of megatron-core's layers, in the decoder and in the tower."""

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
from owl.families.owl3.config import FusionKind
from owl.families.owl3.fusion import JointSoftmax, StaticGate, TokenGate
from owl.families.owl3.hyper_attention import (
    CoreAttention,
    HyperAttention,
    HyperAttentionLayer,
    HyperAttentionSubmodules,
    PackedSelfAttention,
)
from owl.model.attention import attention_backend
from owl.model.norm import LayerNorm, RMSNorm
from owl.model.tile_attention import TileSelfAttention

FUSIONS = {
    FusionKind.token_gate: TokenGate,
    FusionKind.static_gate: StaticGate,
    FusionKind.joint_softmax: JointSoftmax,
}


def decoder_layer_specs(model: ModelConfig) -> list[ModuleSpec]:
    """One spec per decoder layer: plain Qwen2, or Qwen2 that also looks at images."""
    looks_at_images = set(model.hyper_attention.layer_indices)
    plain, hyper = _qwen2_layer(model), _hyper_attention_layer(model)
    return [hyper if index in looks_at_images else plain for index in range(model.num_layers)]


def tower_layer_spec(model: ModelConfig) -> ModuleSpec:
    """SigLIP's encoder layer: pre-norm, biases everywhere, every patch sees its whole tile."""
    column, row = _linears(model.layer_backend)
    attention = ModuleSpec(
        module=TileSelfAttention,
        submodules=SelfAttentionSubmodules(
            linear_qkv=column, core_attention=partial(CoreAttention, backend=None), linear_proj=row
        ),
    )
    return _layer(TransformerLayer, LayerNorm, attention, model)


def _qwen2_layer(model: ModelConfig) -> ModuleSpec:
    column, row = _linears(model.layer_backend)
    attention = ModuleSpec(
        module=PackedSelfAttention,
        submodules=SelfAttentionSubmodules(
            linear_qkv=column, core_attention=_core_attention(model), linear_proj=row
        ),
    )
    return _layer(TransformerLayer, RMSNorm, attention, model)


def _hyper_attention_layer(model: ModelConfig) -> ModuleSpec:
    column, row = _linears(model.layer_backend)
    attention = ModuleSpec(
        module=HyperAttention,
        submodules=HyperAttentionSubmodules(
            linear_qkv=column,
            core_attention=_core_attention(model),
            linear_proj=row,
            linear_media_kv=column,
            fusion=FUSIONS[model.hyper_attention.fusion],
        ),
    )
    return _layer(HyperAttentionLayer, RMSNorm, attention, model)


def _layer(
    layer: type[TransformerLayer], norm: type[nn.Module], attention: ModuleSpec, model: ModelConfig
) -> ModuleSpec:
    column, row = _linears(model.layer_backend)
    return ModuleSpec(
        module=layer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
            mlp=ModuleSpec(module=MLP, submodules=MLPSubmodules(linear_fc1=column, linear_fc2=row)),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def _core_attention(model: ModelConfig) -> partial[CoreAttention]:
    return partial(CoreAttention, backend=attention_backend(model.attention))


def _linears(backend: LayerBackend) -> tuple[type[nn.Module], type[nn.Module]]:
    """Column- and row-parallel linear layers. The config check has asked whether TE is there."""
    if backend is LayerBackend.transformer_engine and HAVE_TE:
        from megatron.core.extensions.transformer_engine import (
            TEColumnParallelLinear,
            TERowParallelLinear,
        )

        return TEColumnParallelLinear, TERowParallelLinear
    return ColumnParallelLinear, RowParallelLinear
