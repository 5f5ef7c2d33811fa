# SPDX-License-Identifier: Apache-2.0
"""The toy family's published form."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from owl.config.run import FamilyKind, ModelConfig
from owl.convert.export_part import ExportPart, Part
from owl.convert.files.reader import HfFolder
from owl.convert.start import InitOptions, Start
from owl.convert.tables.config_fields import (
    language_fields,
    read_decoder,
    read_tower,
    vision_fields,
)
from owl.convert.tables.parts import DECODER, DECODER_LAYER, OUTPUT_LAYER, decoder_sizes
from owl.convert.tables.table import Entry, Row, Shape, expand
from owl.data.samples import PackedBatch
from owl.errors import CheckpointError

VARIANTS: dict[str, object] = {}
_CROSS_LAYER: list[Row] = [
    ("cross.kv.{p}", "self_attention.linear_media_kv.{p}", "2k h"),
    ("cross.gate.{p}", "self_attention.fusion.{p}", "d d"),
]


def claims(config: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether a folder is of this family."""
    return config.get("model_type") == "toy"


def read_config(config: Mapping[str, Any], names: Collection[str], name: str) -> ModelConfig:
    """Read config.json."""
    model = ModelConfig(
        name=name,
        family=FamilyKind.toy,
        template="toy",
        vision_tower=read_tower(config["vision_config"]),
        **read_decoder(config),
    )
    model.toy.layers = config["cross_layers"]
    return model


def write_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """Write config.json."""
    return {
        "model_type": "toy",
        **language_fields(model, dtype),
        "cross_layers": model.toy.layers,
        "vision_config": vision_fields(model),
    }


def entries(model: ModelConfig) -> Iterator[Entry]:
    """Yield every weight."""
    sizes = decoder_sizes(model) | {"x": 3 * model.vision_tower.patch_size**2}
    yield from expand([("{p}", "linear.{p}", "t x")], "eye.", "vision_tower.", sizes)
    yield from expand([("{p}", "linear.{p}", "h t")], "bridge.", "projector.", sizes)
    yield from expand(DECODER, "model.", "", sizes)
    for i in range(model.num_layers):
        table = [*DECODER_LAYER, *(_CROSS_LAYER if i in model.toy.layers else [])]
        yield from expand(table, f"model.layers.{i}.", f"decoder.layers.{i}.", sizes)
    yield from expand(OUTPUT_LAYER, "", "", sizes)


def carried(model: ModelConfig) -> dict[str, Shape]:
    """Every published tensor is computed with."""
    return {}


def start(language: HfFolder, vision: HfFolder, options: InitOptions) -> Start:
    """Refuse: the toy has no pretrained parts."""
    raise CheckpointError("the toy family starts at random.")


def describe(model: ModelConfig) -> dict[str, str]:
    """Return what a model card reports."""
    return {"layers that see images": str(model.toy.layers)}


def logits(folder: Path, batch: PackedBatch) -> Tensor:
    """Refuse: the toy has no inference code."""
    raise CheckpointError("the toy family has no inference code.")


PARTS = {
    Part.complete: ExportPart(
        config=lambda model, dtype, names: write_config(model, dtype),
        loading="# nothing loads a toy",
        pipeline_tag="image-text-to-text",
    )
}
