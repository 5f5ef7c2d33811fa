# SPDX-License-Identifier: Apache-2.0
"""Four switches, and which parameters obey which."""

import pytest
from torch import nn

from owl.config.run import ParallelConfig, Precision, Trainable
from owl.families.owl3.config import FusionKind
from owl.mcore.provider import build_model
from owl.model.freeze import PARTS, PartSize, freeze, part_of, part_sizes, part_table
from tests.tiny_run import tiny_model


def only(*parts: str) -> Trainable:
    return Trainable(**{part: part in parts for part in PARTS})


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vision_tower.encoder.layers.0.mlp.linear_fc1.weight", "vision_tower"),
        ("vision_tower.position_embedding", "vision_tower"),
        ("projector.linear.bias", "projector"),
        ("decoder.layers.1.self_attention.linear_media_kv.weight", "fusion"),
        ("decoder.layers.1.self_attention.fusion.gate", "fusion"),
        ("decoder.layers.1.input_layernorm.media.weight", "fusion"),
        ("decoder.layers.1.pre_mlp_layernorm.text.weight", "language_model"),
        ("projector.layers.1.media_layernorm.weight", "projector"),
        ("decoder.layers.1.self_attention.linear_qkv.weight", "language_model"),
        ("embedding.word_embeddings.weight", "language_model"),
        ("output_layer.weight", "language_model"),
        ("decoder.final_layernorm.weight", "language_model"),
    ],
)
def test_a_parameter_belongs_to_one_part(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize("kind", list(FusionKind), ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_only_the_chosen_part_learns(alone, kind, part):
    (model,) = build_model(tiny_model(kind), ParallelConfig(), Precision.fp32, alone)

    freeze(model, only(part))

    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {name for name, _ in model.named_parameters() if part_of(name) == part}
    assert learning


def test_a_part_can_be_thawed_again():
    model = nn.ModuleDict({"projector": nn.Linear(2, 2)})
    freeze(model, only())

    freeze(model, only("projector"))

    assert all(parameter.requires_grad for parameter in model.parameters())


def test_parts_are_counted_whole_or_not_at_all():
    sizes = [("vision_tower.a", 10), ("projector.linear.bias", 3), ("decoder.x", 5), ("y", 2)]

    counted = part_sizes(sizes, only("projector", "fusion"))

    assert counted == [
        PartSize("vision_tower", 10, 0),
        PartSize("projector", 3, 3),
        PartSize("language_model", 7, 0),
        PartSize("fusion", 0, 0),
    ]


def test_the_table_has_a_row_per_part_and_a_total():
    table = part_table([PartSize("projector", 1500, 1500), PartSize("fusion", 500, 0)])

    rows = [line.split() for line in table.splitlines()]
    assert rows == [
        ["part", "parameters", "trainable", "share"],
        ["projector", "1,500", "1,500", "100.0%"],
        ["fusion", "500", "0", "0.0%"],
        ["total", "2,000", "1,500", "75.0%"],
    ]


def test_an_absent_part_has_no_share():
    assert part_table([PartSize("fusion", 0, 0)]).splitlines()[1].split()[-1] == "-"
