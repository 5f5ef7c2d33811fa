# SPDX-License-Identifier: Apache-2.0
"""Tables of the parts that several model families publish under the same names."""

from owl.config.run import ModelConfig
from owl.convert.table import Row

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
# fmt: on


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

    h hidden, f feed-forward, d head, q and k all heads, p patches of a tile, s side of a patch.
    """
    tower = model.vision_tower
    return {
        "h": tower.hidden_size,
        "f": tower.ffn_hidden_size,
        "d": tower.hidden_size // tower.num_attention_heads,
        "q": tower.hidden_size,
        "k": tower.hidden_size,
        "p": tower.patches_per_tile,
        "s": tower.patch_size,
    }
