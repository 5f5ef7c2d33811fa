# SPDX-License-Identifier: Apache-2.0
"""The shape of every published tensor, from the architecture alone.

What a folder must hold is known before a byte of it is read, so a wrong one is refused at once.
"""

import re
from math import prod

import torch

from owl.config.run import ModelConfig, ProjectorKind
from owl.families.owl3.published import Entry, carried_names, entries

# fmt: off
_LANGUAGE = {
    # tail of the name                         h hidden, f feed-forward, v vocabulary, d head,
    #                                          q = heads x d, k = key-value heads x d
    "embed_tokens.weight":                     "v h",
    "norm.weight":                             "h",
    "lm_head.weight":                          "v h",
    "input_layernorm.weight":                  "h",
    "post_attention_layernorm.weight":         "h",
    "self_attn.q_proj.weight":                 "q h",
    "self_attn.q_proj.bias":                   "q",
    "self_attn.k_proj.weight":                 "k h",
    "self_attn.k_proj.bias":                   "k",
    "self_attn.v_proj.weight":                 "k h",
    "self_attn.v_proj.bias":                   "k",
    "self_attn.o_proj.weight":                 "h q",
    "mlp.gate_proj.weight":                    "f h",
    "mlp.up_proj.weight":                      "f h",
    "mlp.down_proj.weight":                    "h f",
    "self_attn.v_kv_proj.weight":              "2k h",
    "self_attn.v_kv_proj.bias":                "2k",
    "self_attn.gate_proj.0.weight":            "d d",
    "self_attn.gate_proj.0.bias":              "d",
    "self_attn.gate":                          "q",
}
_VISION = {
    # tail of the name                         h hidden, f feed-forward, p patches, s patch side
    "embeddings.patch_embedding.weight":       "h 3 s s",
    "embeddings.position_embedding.weight":    "p h",
    "mlp.fc1.weight":                          "f h",
    "mlp.fc1.bias":                            "f",
    "mlp.fc2.weight":                          "h f",
    "head.probe":                              "1 1 h",
    "head.attention.in_proj_weight":           "3h h",
    "head.attention.in_proj_bias":             "3h",
    "proj.weight":                             "h h",
    "norm1.weight":                            "h",
    "norm2.weight":                            "h",
    "norm.weight":                             "h",
    "bias":                                    "h",
}
_PROJECTOR = {
    # tail of the name                         t tower's hidden, h hidden
    ProjectorKind.linear: {"weight": "h t", "bias": "h"},
    ProjectorKind.mlp: {"0.weight": "h t", "0.bias": "h", "2.weight": "h h", "2.bias": "h"},
    # n queries, m feed-forward of the abstractor. It is not published, but its decoder and tower
    # are exported, and their checkpoint is checked whole.
    ProjectorKind.abstractor: {
        "query_embeds":                        "1 n t",
        "vit_eos":                             "1 1 h",
        "visual_fc.weight":                    "h t",
        "visual_fc.bias":                      "h",
        "mlp.w1.weight":                       "m t",
        "mlp.w1.bias":                         "m",
        "mlp.w3.weight":                       "m t",
        "mlp.w3.bias":                         "m",
        "mlp.ffn_ln.weight":                   "m",
        "mlp.ffn_ln.bias":                     "m",
        "mlp.w2.weight":                       "t m",
        "query.weight":                        "t t",
        "key.weight":                          "t t",
        "value.weight":                        "t t",
        "out_proj.weight":                     "t t",
        "norm1.weight":                        "t",
        "normk.weight":                        "t",
        "norm2.weight":                        "t",
        "bias":                                "t",
    },
}
# fmt: on


def published_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a published checkpoint, in the order of the table.

    Those that influence no output (the tower's last layer, norm and head) come last.
    """
    names = [name for entry in entries(model) for name in entry.published]
    return {name: _shape(name, model) for name in [*names, *carried_names(model)]}


def our_shape(entry: Entry, published: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of our weight that an entry's published tensors make."""
    parts = tuple(torch.empty(published[name], device="meta") for name in entry.published)
    return tuple(entry.to_ours(parts).shape)


def _shape(name: str, model: ModelConfig) -> tuple[int, ...]:
    tower = model.vision_tower
    head = model.hidden_size // model.num_attention_heads
    language = {
        "h": model.hidden_size,
        "f": model.ffn_hidden_size,
        "v": model.vocab_size,
        "d": head,
        "q": model.num_attention_heads * head,
        "k": model.num_kv_heads * head,
        "t": tower.hidden_size,
        "n": model.abstractor.num_queries,
        "m": model.abstractor.ffn_hidden_size,
    }
    vision = {
        "h": tower.hidden_size,
        "f": tower.ffn_hidden_size,
        "p": tower.patches_per_tile,
        "s": tower.patch_size,
    }
    if name.startswith("vision_model."):
        return _look_up(name, _VISION, vision)
    if name.startswith("vision2text_model."):
        return _look_up(name, _PROJECTOR[model.projector], language)
    return _look_up(name, _LANGUAGE, language)


def _look_up(name: str, table: dict[str, str], sizes: dict[str, int]) -> tuple[int, ...]:
    """Find the longest tail that fits, and put numbers in for letters."""
    tail = max((tail for tail in table if name.endswith(tail)), key=len)
    return tuple(_size(dimension, sizes) for dimension in table[tail].split())


def _size(dimension: str, sizes: dict[str, int]) -> int:
    """Multiply a dimension out: "2k" is twice k."""
    return prod(
        int(part) if part.isdigit() else sizes[part] for part in re.findall(r"\d+|[a-z]", dimension)
    )
