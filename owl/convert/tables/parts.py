# SPDX-License-Identifier: Apache-2.0
"""Tables of the parts that several model families publish under the same names."""

from collections.abc import Iterator

from owl.config.run import ModelConfig
from owl.convert.tables.table import Entry, Row, expand

# fmt: off
# A decoder as Qwen2 and LLaMA have it; letters as in decoder_sizes.
DECODER: list[Row] = [
    # published, below `model.`             ours                                     shape
    ("embed_tokens.weight",                 "embedding.word_embeddings.weight",      "v h"),
    ("norm.weight",                         "decoder.final_layernorm.weight",        "h"),
]
DECODER_LAYER: list[Row] = [
    # published, below `model.layers.{i}.`  ours, below `decoder.layers.{i}.`        shape
    ("input_layernorm.weight",              "input_layernorm.weight",                "h"),
    ("self_attn.{q,k,v}_proj.weight",       "self_attention.linear_qkv.weight",      "{q,k,k} h"),
    ("self_attn.{q,k,v}_proj.bias",         "self_attention.linear_qkv.bias",        "{q,k,k}"),
    ("self_attn.o_proj.weight",             "self_attention.linear_proj.weight",     "h q"),
    ("post_attention_layernorm.weight",     "pre_mlp_layernorm.weight",              "h"),
    ("mlp.{gate,up}_proj.weight",           "mlp.linear_fc1.weight",                 "f h"),
    ("mlp.down_proj.weight",                "mlp.linear_fc2.weight",                 "h f"),
]
# LLaMA has no biases.
LLAMA_LAYER: list[Row] = [row for row in DECODER_LAYER if not row[0].endswith("bias")]
OUTPUT_LAYER: list[Row] = [
    ("lm_head.weight",                      "output_layer.weight",                   "v h"),
]
# mPLUG-Owl2's visual abstractor, without its position tables: they are constants, which the
# released files lack as well.
ABSTRACTOR: list[Row] = [
    # published                             ours, below `projector.`                 shape
    ("query_embeds",                        "queries",                               "1 n t"),
    ("visual_fc.{p}",                       "linear_out.{p}",                        "h t"),
    ("vit_eos",                             "end_vector",                            "1 1 h"),
]
ABSTRACTOR_LAYER: list[Row] = [
    # published, below `encoder.layers.{i}.crossattention.`
    #                                       ours, below `projector.layers.{i}.`      shape
    ("norm1.{p}",                           "input_layernorm.{p}",                   "t"),
    ("normk.{p}",                           "media_layernorm.{p}",                   "t"),
    ("attention.query.{p}",                 "linear_q.{p}",                          "t t"),
    ("attention.key.{p}",                   "linear_k.{p}",                          "t t"),
    ("attention.value.{p}",                 "linear_v.{p}",                          "t t"),
    ("output.out_proj.{p}",                 "linear_proj.{p}",                       "t t"),
    ("output.norm2.{p}",                    "pre_mlp_layernorm.{p}",                 "t"),
    ("output.mlp.w1.{p}",                   "mlp.linear_gate.{p}",                   "m t"),
    ("output.mlp.w3.{p}",                   "mlp.linear_up.{p}",                     "m t"),
    ("output.mlp.ffn_ln.{p}",               "mlp.layernorm.{p}",                     "m"),
    ("output.mlp.w2.{p}",                   "mlp.linear_down.{p}",                   "t m"),
]
# The CLIP tower of mPLUG-Owl2 and mPLUG-Owl.
CLIP_TOWER: list[Row] = [
    # published, below `vision_model.`      ours, below `vision_tower.`              shape
    ("embeddings.cls_token",                "class_embedding",                       "1 1 h"),
    ("embeddings.patch_embed.weight",       "patch_embedding.weight",                "h 3 s s"),
    ("embeddings.position_embedding",       "position_embedding",                    "1 p h"),
    ("embeddings.pre_layernorm.{p}",        "pre_layernorm.{p}",                     "h"),
]
CLIP_TOWER_LAYER: list[Row] = [
    # published, below `vision_model.encoder.layers.{i}.`
    #                                       ours, below `vision_tower.encoder.layers.{i}.`
    ("input_layernorm.{p}",                 "input_layernorm.{p}",                   "h"),
    # Head by head query, key and value, as in linear_qkv.
    ("self_attn.query_key_value.{p}",       "self_attention.linear_qkv.{p}",         "3h h"),
    ("self_attn.dense.{p}",                 "self_attention.linear_proj.{p}",        "h h"),
    ("post_attention_layernorm.{p}",        "pre_mlp_layernorm.{p}",                 "h"),
    ("mlp.fc1.{p}",                         "mlp.linear_fc1.{p}",                    "f h"),
    ("mlp.fc2.{p}",                         "mlp.linear_fc2.{p}",                    "h f"),
]
CLIP_TOWER_END: list[Row] = [
    ("post_layernorm.{p}",                  "encoder.final_layernorm.{p}",           "h"),
]
# fmt: on


def clip_tower(model: ModelConfig, published: str) -> Iterator[Entry]:
    """Yield the weights of a CLIP tower, whose published names have a prefix."""
    sizes = tower_sizes(model)
    yield from expand(CLIP_TOWER, published, "vision_tower.", sizes)
    for i in range(model.vision_tower.num_layers):
        layer = f"encoder.layers.{i}."
        yield from expand(CLIP_TOWER_LAYER, published + layer, f"vision_tower.{layer}", sizes)
    yield from expand(CLIP_TOWER_END, published, "vision_tower.", sizes)


def abstractor(model: ModelConfig, published: str, *, queries: str) -> Iterator[Entry]:
    """Yield the weights of a visual abstractor.

    Args:
        model: its sizes.
        published: prefix of the published names.
        queries: published name of the queries, which has no prefix.
    """
    sizes = decoder_sizes(model)
    first, *others = ABSTRACTOR
    yield from expand([(queries, *first[1:])], "", "projector.", sizes)
    for i in range(model.abstractor.num_layers):
        layer = f"{published}encoder.layers.{i}.crossattention."
        yield from expand(ABSTRACTOR_LAYER, layer, f"projector.layers.{i}.", sizes)
    yield from expand(others, published, "projector.", sizes)


def decoder_sizes(model: ModelConfig) -> dict[str, int]:
    """Return the sizes of decoder and projector by letter.

    h hidden, f feed-forward, v vocabulary, d head, q all query heads, k all key heads; t hidden of
    the tower; n queries and m feed-forward of the abstractor.
    """
    head = model.hidden_size // model.num_attention_heads
    return {
        "h": model.hidden_size,
        "f": model.ffn_hidden_size,
        "v": model.vocab_size,
        "d": head,
        "q": model.num_attention_heads * head,
        "k": model.num_kv_heads * head,
        "t": model.vision_tower.hidden_size,
        "n": model.abstractor.num_queries,
        "m": model.abstractor.ffn_hidden_size,
    }


def tower_sizes(model: ModelConfig) -> dict[str, int]:
    """Return the sizes of the vision tower by letter.

    h hidden, f feed-forward, d head, q and k all heads, p features of a tile, s side of a patch.
    """
    tower = model.vision_tower
    return {
        "h": tower.hidden_size,
        "f": tower.ffn_hidden_size,
        "d": tower.hidden_size // tower.num_attention_heads,
        "q": tower.hidden_size,
        "k": tower.hidden_size,
        "p": tower.features_per_tile,
        "s": tower.patch_size,
    }
