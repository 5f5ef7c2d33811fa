# SPDX-License-Identifier: Apache-2.0
"""The published form of mPLUG-Owl3: names and shapes of its weights, and what it exports.

This module implements owl.convert.families.Published.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from owl.config.run import ModelConfig, ProjectorKind
from owl.convert.export_part import TOKENIZER_FILES, ExportPart, Part
from owl.convert.hf_logits import hf_logits
from owl.convert.tables.config_fields import qwen2_config, siglip_config
from owl.convert.tables.parts import (
    ABSTRACTOR,
    ABSTRACTOR_LAYER,
    DECODER,
    DECODER_LAYER,
    OUTPUT_LAYER,
    decoder_sizes,
    tower_sizes,
)
from owl.convert.tables.table import Entry, Row, Shape, expand, published_shapes
from owl.data.samples import PackedBatch
from owl.families.owl3.config import FusionKind
from owl.families.owl3.published_config import MODEL_TYPE, claims, read_config, write_config
from owl.families.owl3.start import start
from owl.families.owl3.variants_owl3 import VARIANTS

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
_TOWER: list[Row] = [
    # published, below `vision_model.`      ours, below `vision_tower.`              shape
    ("embeddings.patch_embedding.{p}",      "patch_embedding.{p}",                   "h 3 s s"),
    ("embeddings.position_embedding.weight", "position_embedding",                   "p h"),
]
_TOWER_LAYER: list[Row] = [
    # published, below `vision_model.encoder.layers.{i}.`
    #                                       ours, below `vision_tower.encoder.layers.{i}.`
    ("layer_norm1.{p}",                     "input_layernorm.{p}",                   "h"),
    ("self_attn.{q,k,v}_proj.{p}",          "self_attention.linear_qkv.{p}",         "h h"),
    ("self_attn.out_proj.{p}",              "self_attention.linear_proj.{p}",        "h h"),
    ("layer_norm2.{p}",                     "pre_mlp_layernorm.{p}",                 "h"),
    ("mlp.fc1.{p}",                         "mlp.linear_fc1.{p}",                    "f h"),
    ("mlp.fc2.{p}",                         "mlp.linear_fc2.{p}",                    "h f"),
]
_CARRIED: list[Row] = [
    # published, below `vision_model.`      no training weight                       shape
    ("post_layernorm.{p}",                  "",                                      "h"),
    ("head.probe",                          "",                                      "1 1 h"),
    ("head.attention.in_proj_weight",       "",                                      "3h h"),
    ("head.attention.in_proj_bias",         "",                                      "3h"),
    ("head.attention.out_proj.{p}",         "",                                      "h h"),
    ("head.layernorm.{p}",                  "",                                      "h"),
    ("head.mlp.fc1.{p}",                    "",                                      "f h"),
    ("head.mlp.fc2.{p}",                    "",                                      "h f"),
]
_PROJECTOR: dict[ProjectorKind, list[Row]] = {
    # published, below `vision2text_model`  ours, below `projector.`                 shape
    ProjectorKind.linear: [
        (".{p}",                            "linear.{p}",                            "h t"),
    ],
    ProjectorKind.mlp: [
        (".0.{p}",                          "linear_fc1.{p}",                        "h t"),
        (".2.{p}",                          "linear_fc2.{p}",                        "h h"),
    ],
    # No Owl3 with an abstractor is published, but its decoder and tower are exported, and for that
    # its checkpoint is checked: these are mPLUG-Owl2's names in the projector's place.
    ProjectorKind.abstractor: [(f".{theirs}", ours, shape) for theirs, ours, shape in ABSTRACTOR],
}
# In the layers that see images. published, below `language_model.model.layers.{i}.`
#                                           ours, below `decoder.layers.{i}.`        shape
_HYPER_LAYER: list[Row] = [
    # v_kv_proj has the row order of linear_media_kv: head by head, key before value.
    ("self_attn.v_kv_proj.{p}",             "self_attention.linear_media_kv.{p}",    "2k h"),
]
_FUSION: dict[FusionKind, list[Row]] = {
    FusionKind.token_gate: [
        ("self_attn.gate_proj.0.{p}",       "self_attention.fusion.{p}",             "d d"),
    ],
    FusionKind.static_gate: [
        ("self_attn.gate",                  "self_attention.fusion.gate",            "q"),
    ],
    FusionKind.joint_softmax: [],
}
# fmt: on
_MEDIA = (
    ".v_kv_proj.weight",
    ".v_kv_proj.bias",
    ".self_attn.gate_proj.0.weight",
    ".self_attn.gate_proj.0.bias",
    ".self_attn.gate",
)  # fmt: skip


def entries(model: ModelConfig) -> Iterator[Entry]:
    """Yield every weight that training computes with, in the order of the forward pass."""
    decoder, tower = decoder_sizes(model), tower_sizes(model)
    yield from expand(_TOWER, "vision_model.", "vision_tower.", tower)
    for i in range(model.vision_tower.num_layers - 1):
        yield from _tower_layer(model, i)
    yield from expand(_PROJECTOR[model.projector], "vision2text_model", "projector.", decoder)
    if model.projector is ProjectorKind.abstractor:
        for i in range(model.abstractor.num_layers):
            published = f"vision2text_model.encoder.layers.{i}.crossattention."
            yield from expand(ABSTRACTOR_LAYER, published, f"projector.layers.{i}.", decoder)
    yield from expand(DECODER, "language_model.model.", "", decoder)
    for i in range(model.num_layers):
        table: Sequence[Row] = DECODER_LAYER
        if i in model.hyper_attention.layer_indices:
            table = [*table, *_HYPER_LAYER, *_FUSION[model.hyper_attention.fusion]]
        published = f"language_model.model.layers.{i}."
        yield from expand(table, published, f"decoder.layers.{i}.", decoder)
    if not model.tie_word_embeddings:
        yield from expand(OUTPUT_LAYER, "language_model.", "", decoder)


def carried(model: ModelConfig) -> dict[str, Shape]:
    """Return the tensors that influence no output: the tower's last layer, final norm and head.

    The features are hidden_states[-2], the output of the layer before the last.
    """
    last = _tower_layer(model, model.vision_tower.num_layers - 1)
    rest = expand(_CARRIED, "vision_model.", "", tower_sizes(model))
    return published_shapes([*last, *rest])


def _tower_layer(model: ModelConfig, i: int) -> Iterator[Entry]:
    yield from expand(
        _TOWER_LAYER,
        f"vision_model.encoder.layers.{i}.",
        f"vision_tower.encoder.layers.{i}.",
        tower_sizes(model),
    )


def describe(model: ModelConfig) -> dict[str, str]:
    """Return what a model card reports of this family's settings, by title."""
    attention, tower = model.hyper_attention, model.vision_tower
    layers = ", ".join(str(index + 1) for index in attention.layer_indices)
    return {
        "layers that see images": f"{layers} (counted from 1), {attention.fusion}",
        "tiles": f"{tower.image_size} px, {tower.patches_per_tile} patches",
    }


def logits(folder: Path, batch: PackedBatch) -> Tensor:
    """Compute logits with the inference code, sample by sample, in float32: [t, v]."""
    from owl.families.owl3.hf.modeling_owl3 import Owl3ForConditionalGeneration

    model = Owl3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return hf_logits(model.eval(), batch)


def _language_config(model: ModelConfig, dtype: str, names: Collection[str]) -> dict[str, Any]:
    return qwen2_config(model, dtype)


def _vision_config(model: ModelConfig, dtype: str, names: Collection[str]) -> dict[str, Any]:
    head = any(name.startswith("vision_model.head.") for name in names)
    return siglip_config(model, dtype, head=head)


PARTS = {
    Part.complete: ExportPart.complete(write_config, model_type=MODEL_TYPE),
    Part.language_model: ExportPart(
        config=_language_config,
        loading=(
            "from transformers import Qwen2ForCausalLM\n\n"
            "model = Qwen2ForCausalLM.from_pretrained(FOLDER)"
        ),
        pipeline_tag="text-generation",
        base_files=TOKENIZER_FILES,
        prefix="language_model.",
        removed_prefix="language_model.",
        excluded=_MEDIA,
    ),
    Part.vision_model: ExportPart(
        config=_vision_config,
        loading=(
            "from transformers import SiglipVisionModel\n\n"
            "model = SiglipVisionModel.from_pretrained(FOLDER)"
        ),
        pipeline_tag="image-feature-extraction",
        prefix="vision_model.",
    ),
}
