# SPDX-License-Identifier: Apache-2.0
"""The published forms of the two families that splice: every name, shape and config field."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from owl.config.run import FamilyKind, ModelConfig, PictureFit, ProjectorKind, VisionTowerConfig
from owl.convert.families import PUBLISHED, family_of_folder, weight_table
from owl.convert.tables.layouts import merge_media_kv
from owl.errors import CheckpointError

GOLDEN = Path(__file__).parents[2] / "golden"
FAMILIES = [FamilyKind.owl2, FamilyKind.owl1]


def config_of(kind: FamilyKind) -> dict:
    return json.loads((GOLDEN / kind / "config.json").read_text())


def weights_of(kind: FamilyKind) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / kind / "model.safetensors")


def model_of(kind: FamilyKind, **changes) -> ModelConfig:
    config = config_of(kind) | changes
    family = family_of_folder(config, (), GOLDEN / kind)
    assert family is PUBLISHED[kind]
    return family.read_config(config, (), "golden")


@pytest.mark.parametrize("kind", FAMILIES, ids=str)
def test_the_table_has_every_tensor_of_a_published_folder_and_no_other(kind):
    table = weight_table(PUBLISHED[kind], model_of(kind))

    stored = {name: tuple(tensor.shape) for name, tensor in weights_of(kind).items()}
    assert table.shapes == stored


@pytest.mark.parametrize("kind", FAMILIES, ids=str)
def test_a_weight_is_made_of_published_tensors_and_they_of_it(kind):
    weights = weights_of(kind)

    for entry in PUBLISHED[kind].entries(model_of(kind)):
        parts = tuple(weights[name] for name in entry.published)
        again = entry.to_published(entry.to_ours(parts))
        assert all(torch.equal(*pair) for pair in zip(parts, again, strict=True)), entry.ours


def test_the_media_copy_is_multiway_1():
    weights, model = weights_of(FamilyKind.owl2), model_of(FamilyKind.owl2)
    entries = {e.ours: e for e in PUBLISHED[FamilyKind.owl2].entries(model)}

    entry = entries["decoder.layers.1.self_attention.linear_media_kv.weight"]
    key, value = (
        weights[f"model.layers.1.self_attn.{part}_proj.multiway.1.weight"] for part in "kv"
    )
    expected = merge_media_kv(key, value, model.num_kv_heads)
    assert torch.equal(entry.to_ours(tuple(weights[n] for n in entry.published)), expected)


@pytest.mark.parametrize("kind", FAMILIES, ids=str)
def test_a_written_config_reads_as_the_same_model(kind):
    family, model = PUBLISHED[kind], model_of(kind)
    changed = replace(
        model,
        **{kind.value: replace(model.node, fit=PictureFit.crop)},
        rope_theta=5e4,
        num_kv_heads=2,
        abstractor=replace(model.abstractor, attention_dropout=0.25),
    )

    for each in (model, changed):
        written = json.loads(json.dumps(family.write_config(each, "bfloat16")))
        assert family.read_config(written, (), "golden") == each


def test_the_published_sizes_stand_where_a_config_names_none():
    config = {name: value for name, value in config_of(FamilyKind.owl2).items()}
    del config["visual_config"]

    model = PUBLISHED[FamilyKind.owl2].read_config(config, (), "released")

    assert (model.vision_tower.image_size, model.vision_tower.features_per_tile) == (448, 1025)
    assert (model.abstractor.num_layers, model.keys_per_tile) == (6, 65)


def test_an_early_llama_has_as_many_key_heads_as_heads_and_the_first_rotary_base():
    model = model_of(FamilyKind.owl1)

    assert (model.num_kv_heads, model.rope_theta) == (4, 1e4)
    assert model.abstractor.attention_dropout == 0.1
    assert not model.abstractor.positions


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("visual_model", "hidden_act", "gelu", r"hidden_act='gelu' must be 'quick_gelu'"),
        ("visual_model", "use_cls_token", False, r"use_cls_token=False must be True"),
        ("visual_abstractor", "add_v2t_pos_emb", True, r"add_v2t_pos_emb=True must be False"),
        ("visual_abstractor", "grid_size", 32, r"grid_size=32 must be .* = 2"),
        ("visual_abstractor", "encoder_hidden_size", 48, r"encoder_hidden_size=48 .* tower's 32"),
    ],
)
def test_what_nothing_computes_is_refused(part, field, value, message):
    visual = config_of(FamilyKind.owl2)["visual_config"]
    visual[part][field] = value

    with pytest.raises(CheckpointError, match=message):
        model_of(FamilyKind.owl2, visual_config=visual)


def test_scaled_rotary_positions_are_refused():
    with pytest.raises(CheckpointError, match=r"rope_scaling=.* must be None"):
        model_of(FamilyKind.owl2, rope_scaling={"type": "linear", "factor": 2.0})


@pytest.mark.parametrize("kind", FAMILIES, ids=str)
def test_a_model_with_other_parts_has_no_published_form(kind):
    model = model_of(kind)

    with pytest.raises(CheckpointError, match=r"kind=siglip cannot be exported"):
        PUBLISHED[kind].write_config(replace(model, vision_tower=VisionTowerConfig()), "float32")
    with pytest.raises(CheckpointError, match=r"projector=mlp cannot be exported"):
        PUBLISHED[kind].write_config(replace(model, projector=ProjectorKind.mlp), "float32")
