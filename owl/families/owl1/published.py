# SPDX-License-Identifier: Apache-2.0
"""The published form of mPLUG-Owl: names and shapes of its weights, and what it exports.

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
    LLAMA_LAYER,
    OUTPUT_LAYER,
    abstractor,
    clip_tower,
    decoder_sizes,
)
from owl.convert.tables.table import Entry, Shape, expand
from owl.data.samples import PackedBatch
from owl.families.owl1.markup_owl1 import BEGIN, END
from owl.families.owl1.published_config import MODEL_TYPE, claims, read_config, write_config
from owl.families.owl1.start import start
from owl.families.owl1.variants_owl1 import VARIANTS

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


def entries(model: ModelConfig) -> Iterator[Entry]:
    """Yield every weight that training computes with, in the order of the forward pass."""
    sizes = decoder_sizes(model)
    yield from clip_tower(model, "vision_model.")
    yield from abstractor(model, "abstractor.", queries="query_tokens")
    yield from expand(DECODER, "language_model.model.", "", sizes)
    for i in range(model.num_layers):
        published = f"language_model.model.layers.{i}."
        yield from expand(LLAMA_LAYER, published, f"decoder.layers.{i}.", sizes)
    if not model.tie_word_embeddings:
        yield from expand(OUTPUT_LAYER, "language_model.", "", sizes)


def carried(model: ModelConfig) -> dict[str, Shape]:
    """Return the constants that released files hold: rotary frequencies.

    Training computes them.
    """
    return {
        f"language_model.model.layers.{i}.self_attn.rotary_emb.inv_freq": (model.head_dim // 2,)
        for i in range(model.num_layers)
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
    from owl.families.owl1.hf.modeling_owl1 import Owl1ForConditionalGeneration

    model = Owl1ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return hf_logits(model.eval(), batch)


PARTS = {
    Part.complete: ExportPart.complete(
        write_config,
        model_type=MODEL_TYPE,
        control_tokens=(BEGIN, END),
        makes_up_carried=False,
    ),
}
