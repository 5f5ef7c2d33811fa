# SPDX-License-Identifier: Apache-2.0
"""The two-column table: how published checkpoints and ours name the same weights.

`entries(model)` writes it out for one model: every weight of ours, the published tensors it is made
of, and the pure re-layout between them. Everything else in owl/convert walks this list.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from torch import Tensor

from owl.config.run import ModelConfig, ProjectorKind
from owl.convert import layouts
from owl.families.owl3.config import FusionKind

Tensors: TypeAlias = tuple[Tensor, ...]

# fmt: off
_TOWER = [
    # published, below vision_model.                     ours, below vision_tower.
    ("embeddings.patch_embedding.weight",                "patch_embedding.weight"),
    ("embeddings.patch_embedding.bias",                  "patch_embedding.bias"),
    ("embeddings.position_embedding.weight",             "position_embedding"),
]
_TOWER_LAYER = [
    # published, below vision_model.encoder.layers.{i}.  ours, below vision_tower.encoder.layers.{i}
    ("layer_norm1.{p}",                                  "input_layernorm.{p}"),
    ("self_attn.{q,k,v}_proj.{p}",                       "self_attention.linear_qkv.{p}"),
    ("self_attn.out_proj.{p}",                           "self_attention.linear_proj.{p}"),
    ("layer_norm2.{p}",                                  "pre_mlp_layernorm.{p}"),
    ("mlp.fc1.{p}",                                      "mlp.linear_fc1.{p}"),
    ("mlp.fc2.{p}",                                      "mlp.linear_fc2.{p}"),
]
_CARRIED = [
    # published, below vision_model.
    "post_layernorm.{p}",
    "head.probe",
    "head.attention.in_proj_weight",
    "head.attention.in_proj_bias",
    "head.attention.out_proj.{p}",
    "head.layernorm.{p}",
    "head.mlp.fc1.{p}",
    "head.mlp.fc2.{p}",
]
_PROJECTOR = {
    ProjectorKind.linear: [
        ("vision2text_model.{p}",                        "projector.linear.{p}"),
    ],
    ProjectorKind.mlp: [
        ("vision2text_model.0.{p}",                      "projector.linear_fc1.{p}"),
        ("vision2text_model.2.{p}",                      "projector.linear_fc2.{p}"),
    ],
    # No Owl3 with an abstractor is published: these are mPLUG-Owl2's names in the projector's
    # place, without the position tables: constants, which the released Owl2 files lack as well.
    ProjectorKind.abstractor: [
        ("vision2text_model.query_embeds",               "projector.queries"),
        ("vision2text_model.visual_fc.{p}",              "projector.linear_out.{p}"),
        ("vision2text_model.vit_eos",                    "projector.end_vector"),
    ],
}
_ABSTRACTOR_LAYER = [
    # published, below ...encoder.layers.{i}.crossattention.   ours, below projector.layers.{i}.
    ("norm1.{p}",                                        "input_layernorm.{p}"),
    ("normk.{p}",                                        "media_layernorm.{p}"),
    ("attention.query.{p}",                              "linear_q.{p}"),
    ("attention.key.{p}",                                "linear_k.{p}"),
    ("attention.value.{p}",                              "linear_v.{p}"),
    ("output.out_proj.{p}",                              "linear_proj.{p}"),
    ("output.norm2.{p}",                                 "pre_mlp_layernorm.{p}"),
    ("output.mlp.w1.{p}",                                "mlp.linear_gate.{p}"),
    ("output.mlp.w3.{p}",                                "mlp.linear_up.{p}"),
    ("output.mlp.ffn_ln.{p}",                            "mlp.layernorm.{p}"),
    ("output.mlp.w2.{p}",                                "mlp.linear_down.{p}"),
]
_DECODER = [
    # published, below language_model.                   ours
    ("model.embed_tokens.weight",                        "embedding.word_embeddings.weight"),
    ("model.norm.weight",                                "decoder.final_layernorm.weight"),
]
_DECODER_LAYER = [
    # published, below language_model.model.layers.{i}.  ours, below decoder.layers.{i}.
    ("input_layernorm.weight",                           "input_layernorm.weight"),
    ("self_attn.{q,k,v}_proj.weight",                    "self_attention.linear_qkv.weight"),
    ("self_attn.{q,k,v}_proj.bias",                      "self_attention.linear_qkv.bias"),
    ("self_attn.o_proj.weight",                          "self_attention.linear_proj.weight"),
    ("post_attention_layernorm.weight",                  "pre_mlp_layernorm.weight"),
    ("mlp.{gate,up}_proj.weight",                        "mlp.linear_fc1.weight"),
    ("mlp.down_proj.weight",                             "mlp.linear_fc2.weight"),
]
_HYPER_LAYER = [
    # v_kv_proj already lies as linear_media_kv does: head by head, key before value.
    ("self_attn.v_kv_proj.{p}",                          "self_attention.linear_media_kv.{p}"),
]
_FUSION = {
    FusionKind.token_gate: [
        ("self_attn.gate_proj.0.{p}",                    "self_attention.fusion.{p}"),
    ],
    FusionKind.static_gate: [
        ("self_attn.gate",                               "self_attention.fusion.gate"),
    ],
    FusionKind.joint_softmax: [],
}
# fmt: on


@dataclass(frozen=True)
class Entry:
    """One weight of ours and the published tensors it is made of."""

    ours: str
    published: tuple[str, ...]
    to_ours: Callable[[Tensors], Tensor]
    to_published: Callable[[Tensor], Tensors]


def entries(model: ModelConfig) -> Iterator[Entry]:
    """Yield every weight that training computes with, in the order of the forward pass."""
    tower = model.vision_tower
    merge = _Merge(model)
    tower_merge = _Merge(model, heads=tower.num_attention_heads, groups=tower.num_attention_heads)
    for theirs, ours in _TOWER:
        yield merge.entry(f"vision_model.{theirs}", f"vision_tower.{ours}")
    for i in range(tower.num_layers - 1):
        for theirs, ours in _parameters(_TOWER_LAYER):
            yield tower_merge.entry(
                f"vision_model.encoder.layers.{i}.{theirs}",
                f"vision_tower.encoder.layers.{i}.{ours}",
            )
    for theirs, ours in _projector(model):
        yield merge.entry(theirs, ours)
    for theirs, ours in _DECODER:
        yield merge.entry(f"language_model.{theirs}", ours)
    for i in range(model.num_layers):
        table = list(_DECODER_LAYER)
        if i in model.hyper_attention.layer_indices:
            table += _parameters(_HYPER_LAYER + _FUSION[model.hyper_attention.fusion])
        for theirs, ours in table:
            yield merge.entry(
                f"language_model.model.layers.{i}.{theirs}", f"decoder.layers.{i}.{ours}"
            )
    if not model.tie_word_embeddings:
        yield merge.entry("language_model.lm_head.weight", "output_layer.weight")


def is_carried(published: str, model: ModelConfig) -> bool:
    """Say whether a published tensor influences no output but has to come back on export.

    The tower's last layer, final norm and pooling head: the feature used is hidden_states[-2].
    """
    last = model.vision_tower.num_layers - 1
    prefixes = (f"encoder.layers.{last}.", "post_layernorm.", "head.")
    return published.startswith(tuple(f"vision_model.{prefix}" for prefix in prefixes))


def carried_names(model: ModelConfig) -> list[str]:
    """Name every published tensor that is_carried, as the released checkpoints hold them."""
    last = f"vision_model.encoder.layers.{model.vision_tower.num_layers - 1}"
    layer = [
        f"{last}.{theirs.replace('{q,k,v}', part)}"
        for theirs, _ in _parameters(_TOWER_LAYER)
        for part in ("qkv" if "{q,k,v}" in theirs else " ")
    ]
    rest = [f"vision_model.{name}" for name, _ in _parameters([(name, "") for name in _CARRIED])]
    return layer + rest


def _projector(model: ModelConfig) -> Iterator[tuple[str, str]]:
    yield from _parameters(_PROJECTOR[model.projector])
    if model.projector is ProjectorKind.abstractor:
        for i in range(model.abstractor.num_layers):
            for theirs, ours in _parameters(_ABSTRACTOR_LAYER):
                yield (
                    f"vision2text_model.encoder.layers.{i}.crossattention.{theirs}",
                    f"projector.layers.{i}.{ours}",
                )


def _parameters(table: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Write `{p}` out as weight and bias."""
    return [
        (theirs.replace("{p}", p), ours.replace("{p}", p))
        for theirs, ours in table
        for p in (["weight", "bias"] if "{p}" in theirs else [""])
    ]


def _merge_qkv(parts: Tensors, num_kv_heads: int) -> Tensor:
    query, key, value = parts
    return layouts.merge_qkv(query, key, value, num_kv_heads)


class _Merge:
    """Chooses the re-layout that a row of the table needs."""

    def __init__(
        self, model: ModelConfig, heads: int | None = None, groups: int | None = None
    ) -> None:
        self.heads = heads or model.num_attention_heads
        self.groups = groups or model.num_kv_heads

    def entry(self, theirs: str, ours: str) -> Entry:
        if "{q,k,v}" in theirs:
            names = tuple(theirs.replace("{q,k,v}", part) for part in "qkv")
            return Entry(
                ours,
                names,
                partial(_merge_qkv, num_kv_heads=self.groups),
                partial(layouts.split_qkv, num_heads=self.heads, num_kv_heads=self.groups),
            )
        if "{gate,up}" in theirs:
            names = tuple(theirs.replace("{gate,up}", part) for part in ("gate", "up"))
            return Entry(
                ours, names, lambda parts: layouts.merge_gate_up(*parts), layouts.split_gate_up
            )
        return Entry(ours, (theirs,), lambda parts: parts[0], lambda merged: (merged,))
