# SPDX-License-Identifier: Apache-2.0
"""The published form of mPLUG-Owl2: names and shapes of its weights, and what it exports.

This module implements owl.convert.families.Published.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from owl.config.run import ModelConfig
from owl.convert.export_part import ExportPart, Part
from owl.convert.hf_logits import hf_logits
from owl.convert.tables.parts import (
    DECODER,
    OUTPUT_LAYER,
    abstractor,
    clip_tower,
    decoder_sizes,
)
from owl.convert.tables.table import Entry, Row, Shape, expand
from owl.data.samples import PackedBatch
from owl.families.owl2.markup_owl2 import BEGIN, END
from owl.families.owl2.published_config import MODEL_TYPE, claims, read_config, write_config
from owl.families.owl2.start import start
from owl.families.owl2.variants_owl2 import VARIANTS

__all__ = [
    "PARTS",
    "VARIANTS",
    "carried",
    "claims",
    "describe",
    "entries",
    "logits",
    "read_config",
    "start",
    "write_config",
]

# fmt: off
_LAYER: list[Row] = [
    # published, below `model.layers.{i}.`  ours, below `decoder.layers.{i}.`        shape
    # multiway.0 is for text, multiway.1 for media.
    ("input_layernorm.multiway.0.weight",   "input_layernorm.text.weight",           "h"),
    ("input_layernorm.multiway.1.weight",   "input_layernorm.media.weight",          "h"),
    ("self_attn.{q_proj,k_proj.multiway.0,v_proj.multiway.0}.weight",
                                            "self_attention.linear_qkv.weight",      "{q,k,k} h"),
    ("self_attn.{k_proj,v_proj}.multiway.1.weight",
                                            "self_attention.linear_media_kv.weight", "k h"),
    ("self_attn.o_proj.weight",             "self_attention.linear_proj.weight",     "h q"),
    ("post_attention_layernorm.multiway.0.weight", "pre_mlp_layernorm.text.weight",  "h"),
    ("post_attention_layernorm.multiway.1.weight", "pre_mlp_layernorm.media.weight", "h"),
    ("mlp.{gate,up}_proj.weight",           "mlp.linear_fc1.weight",                 "f h"),
    ("mlp.down_proj.weight",                "mlp.linear_fc2.weight",                 "h f"),
]
# fmt: on


def entries(model: ModelConfig) -> Iterator[Entry]:
    """Yield every weight that training computes with, in the order of the forward pass."""
    sizes = decoder_sizes(model)
    yield from clip_tower(model, "model.vision_model.")
    abstractor_name = "model.visual_abstractor."
    yield from abstractor(model, abstractor_name, queries=f"{abstractor_name}query_embeds")
    yield from expand(DECODER, "model.", "", sizes)
    for i in range(model.num_layers):
        yield from expand(_LAYER, f"model.layers.{i}.", f"decoder.layers.{i}.", sizes)
    if not model.tie_word_embeddings:
        yield from expand(OUTPUT_LAYER, "", "", sizes)


def carried(model: ModelConfig) -> dict[str, Shape]:
    """Return the constants that released files hold: rotary frequencies and position tables.

    Training computes them. Files converted from the authors' training lack the position tables.
    """
    sizes, tower = model.abstractor, model.vision_tower
    tables = {
        "q_pos_embed": (sizes.num_queries, tower.hidden_size),
        "k_pos_embed": (tower.features_per_tile, tower.hidden_size),
    }
    layers = "model.visual_abstractor.encoder.layers."
    return {
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": (model.head_dim // 2,)
        for i in range(model.num_layers)
    } | {
        f"{layers}{i}.crossattention.attention.{name}": shape
        for i in range(sizes.num_layers)
        for name, shape in tables.items()
    }


def describe(model: ModelConfig) -> dict[str, str]:
    """Return what a model card reports of this family's settings, by title."""
    tower = model.vision_tower
    return {
        "pictures": f"{tower.image_size} px, {model.keys_per_tile} tokens each",
        "prompt template": model.template,
    }


def logits(folder: Path, batch: PackedBatch) -> Tensor:
    """Compute logits with the inference code, sample by sample, in float32: [t, v]."""
    from owl.families.owl2.hf.modeling_owl2 import Owl2ForConditionalGeneration

    model = Owl2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return hf_logits(model.eval(), batch)


PARTS = {
    Part.complete: ExportPart.complete(
        write_config,
        model_type=MODEL_TYPE,
        control_tokens=(BEGIN, END),
        makes_up_carried=False,
    ),
}
