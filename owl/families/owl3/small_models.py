# SPDX-License-Identifier: Apache-2.0
"""A small model of each published variant, with everything that is hard about the large one."""

from owl.config.run import (
    AbstractorConfig,
    AttentionKind,
    ModelConfig,
    ProjectorKind,
    VisionTowerConfig,
)
from owl.families.owl3.config import FusionKind, HyperAttentionConfig
from owl.families.owl3.variants_owl3 import VARIANTS
from owl.model.small_model import LAYERS, SmallModel

# Between them the three use all projectors; no published variant has the abstractor.
_PROJECTORS = {
    FusionKind.token_gate: ProjectorKind.linear,
    FusionKind.static_gate: ProjectorKind.abstractor,
    FusionKind.joint_softmax: ProjectorKind.mlp,
}


def small_models(*, head_dim: int) -> dict[str, SmallModel]:
    """Make them, by name of the variant.

    Args:
        head_dim: d; FlexAttention takes 16 and more.
    """
    kinds = {name: FusionKind(variant.fusion) for name, variant in VARIANTS.items()}
    backends = (AttentionKind.per_sample, AttentionKind.reference)
    return {
        name: SmallModel(
            model=_model(fusion, head_dim),
            # Only a joint softmax is computed differently by merging two parts.
            attention=(*backends, AttentionKind.lse_merge)
            if fusion is FusionKind.joint_softmax
            else backends,
        )
        for name, fusion in kinds.items()
    }


def _model(fusion: FusionKind, head_dim: int) -> ModelConfig:
    heads = 8
    return ModelConfig(
        name=f"parity_{fusion}",
        hidden_size=heads * head_dim,
        ffn_hidden_size=48,
        num_layers=LAYERS,
        num_attention_heads=heads,
        num_kv_heads=4,
        vocab_size=203,
        tie_word_embeddings=fusion is FusionKind.static_gate,
        projector=_PROJECTORS[fusion],
        abstractor=AbstractorConfig(
            num_queries=5, num_layers=2, num_attention_heads=4, ffn_hidden_size=40
        ),
        hyper_attention=HyperAttentionConfig(
            layer_indices=[1, 2, 5],  # none on the last of four stages, two in a row, one alone
            fusion=fusion,
            media_position_shift=0 if fusion is FusionKind.joint_softmax else 1,
        ),
        vision_tower=VisionTowerConfig(
            hidden_size=32,
            ffn_hidden_size=40,
            num_layers=3,
            num_attention_heads=4,
            image_size=30,
        ),
    )
