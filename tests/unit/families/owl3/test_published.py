# SPDX-License-Identifier: Apache-2.0
"""The table of names is complete, on the published side and on ours."""

import ast
from pathlib import Path

import pytest
import torch
import yaml

from owl.config.node import build_node
from owl.config.run import ModelConfig, ParallelConfig, Precision
from owl.families.owl3.config import FusionKind
from owl.families.owl3.published import carried, entries
from owl.mcore.parameters import global_names
from owl.mcore.provider import build_model
from tests.tiny_run import tiny_model

ROOT = Path(__file__).parents[4]
KEYS = ROOT / "tests/golden/owl3-7b-240728-keys.txt"


@pytest.fixture
def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released 7B-240728."""
    lines = (line.split("\t") for line in KEYS.read_text().splitlines())
    return {name: ast.literal_eval(shape) for name, shape in lines}


@pytest.fixture
def model() -> ModelConfig:
    text = (ROOT / "configs/model/owl3_7b_240728.yaml").read_text()
    return build_node(ModelConfig, yaml.safe_load(text))


def test_every_published_tensor_is_read_or_carried_and_no_other_is_asked_for(published, model):
    read = [name for entry in entries(model) for name in entry.published]

    assert len(published) == 805
    assert sorted([*read, *carried(model)]) == sorted(published)


def test_re_layouts_fit_the_published_shapes_and_come_back(published, model):
    for entry in entries(model):
        shapes = [published[name] for name in entry.published]
        assert list(entry.shapes) == shapes, entry.ours
        parts = tuple(torch.empty(shape, device="meta") for shape in shapes)

        ours = entry.to_ours(parts)
        again = entry.to_published(ours)

        assert ours.numel() == sum(part.numel() for part in parts)
        assert [tuple(part.shape) for part in again] == shapes, entry.ours


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", list(FusionKind), ids=str)
def test_the_table_names_every_weight_of_the_model_once(alone, kind, tied):
    model = tiny_model(kind, tie_word_embeddings=tied)
    chunks = build_model(model, ParallelConfig(), Precision.fp32, alone)

    ours = [entry.ours for entry in entries(model)]

    assert sorted(ours) == sorted(name for name, _ in global_names(chunks))


@pytest.mark.parametrize("kind", list(FusionKind), ids=str)
def test_a_weight_survives_the_way_out_and_back(alone, kind):
    model = tiny_model(kind)
    weights = dict(global_names(build_model(model, ParallelConfig(), Precision.fp32, alone)))

    for entry in entries(model):
        out = entry.to_published(weights[entry.ours])

        assert len(out) == len(entry.published)
        assert torch.equal(entry.to_ours(out), weights[entry.ours]), entry.ours


@pytest.mark.parametrize(
    ("name", "is_carried"),
    [
        ("vision_model.encoder.layers.26.mlp.fc1.weight", True),
        ("vision_model.post_layernorm.bias", True),
        ("vision_model.head.probe", True),
        ("vision_model.encoder.layers.25.mlp.fc1.weight", False),
        ("vision_model.encoder.layers.2.mlp.fc1.weight", False),
        ("vision_model.embeddings.position_embedding.weight", False),
        ("language_model.model.layers.26.mlp.down_proj.weight", False),
    ],
)
def test_what_influences_no_output_is_carried(model, name, is_carried):
    assert (name in carried(model)) == is_carried
