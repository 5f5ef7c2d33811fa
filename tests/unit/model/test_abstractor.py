# SPDX-License-Identifier: Apache-2.0
"""The visual abstractor is mPLUG-Owl2's, and a tile behind it costs its queries and an end."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from owl.config.run import (
    AbstractorConfig,
    ParallelConfig,
    Precision,
    ProjectorKind,
    TowerKind,
    VisionTowerConfig,
)
from owl.families.owl3.config import FusionKind
from owl.families.owl3.published import entries
from owl.mcore.provider import build_model
from owl.mcore.transformer_config import decoder_config
from owl.model.abstractor import VisualAbstractor, grid_positions, positions
from tests.oracle.owl2_decoder import owl2_loss
from tests.tiny_run import tiny_model
from tests.unit.model.packs import PLACES, make_pack

GOLDEN = Path(__file__).parents[2] / "golden/owl2"
# The sizes in that folder's config.json, and of the module built alone.
OWL2 = tiny_model(
    hidden_size=64,
    projector=ProjectorKind.abstractor,
    abstractor=AbstractorConfig(
        num_queries=8, num_layers=2, num_attention_heads=4, ffn_hidden_size=44
    ),
    vision_tower=VisionTowerConfig(
        kind=TowerKind.clip, hidden_size=32, image_size=28, patch_size=14
    ),
)
TINY = tiny_model(
    projector=ProjectorKind.abstractor,
    abstractor=AbstractorConfig(
        num_queries=3, num_layers=2, num_attention_heads=2, ffn_hidden_size=20
    ),
)


@pytest.fixture(scope="module")
def owl2(alone):
    """Owl2's abstractor with the stored weights, behind a tower with a class token."""
    config = decoder_config(OWL2, ParallelConfig(), Precision.fp32)
    module = VisualAbstractor(config, OWL2, alone.collection)
    module.load_state_dict(named_as_ours(load_file(GOLDEN / "model.safetensors")))
    return module


def named_as_ours(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pick the abstractor's tensors, by the rows of the conversion table."""
    return {
        entry.ours.removeprefix("projector."): stored[
            entry.published[0].replace("vision2text_model.", "model.visual_abstractor.")
        ]
        for entry in entries(OWL2)
        if entry.ours.startswith("projector.")
    }


def flat(per_tile: torch.Tensor) -> torch.Tensor:
    """[m, n, h] as projectors take and give it, [m * n, 1, h]."""
    return per_tile.flatten(0, 1)[:, None]


def test_the_output_is_that_of_the_published_code(owl2):
    case = load_file(GOLDEN / "basic.safetensors")

    projected = owl2(flat(case["vision_output"]))

    torch.testing.assert_close(projected, flat(case["abstractor_output"]), rtol=0, atol=2e-5)


def test_each_layer_is_that_of_the_published_code(owl2):
    case = load_file(GOLDEN / "basic.safetensors")
    seen = []
    hooks = [
        layer.register_forward_hook(lambda module, args, out: seen.append(out))
        for layer in owl2.layers
    ]

    owl2(flat(case["vision_output"]))

    for hook in hooks:
        hook.remove()
    for index, out in enumerate(seen):
        torch.testing.assert_close(out, case[f"abstractor_layer_{index}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("table", ["q_pos_embed", "k_pos_embed"])
def test_the_position_tables_are_the_published_ones(owl2, table):
    stored = load_file(GOLDEN / "model.safetensors")

    ours = owl2.query_positions if table == "q_pos_embed" else owl2.patch_positions

    layer = "model.visual_abstractor.encoder.layers.0.crossattention.attention"
    torch.testing.assert_close(ours, stored[f"{layer}.{table}"], rtol=0, atol=1e-6)


def test_gradients_are_those_of_the_published_code(owl2):
    # The stored ones are of Owl2's loss, which reaches the abstractor through its decoder.
    case = load_file(GOLDEN / "basic.safetensors")
    expected = named_as_ours(load_file(GOLDEN / "basic.grads.safetensors"))
    largest = max(float(g.abs().max()) for g in expected.values())
    owl2.zero_grad()

    projected = owl2(flat(case["vision_output"]))
    is_image = case["modality_indicators"].bool()
    embeddings = case["inputs_embeds"].masked_scatter(is_image[..., None], projected)
    weights = load_file(GOLDEN / "model.safetensors")
    loss = owl2_loss(weights, embeddings, is_image, case["expanded_labels"])
    loss.backward()

    torch.testing.assert_close(loss[None], case["loss"], rtol=0, atol=2e-5)
    for name, parameter in owl2.named_parameters():
        scale = max(float(expected[name].abs().max()), 1e-3 * largest)
        off = float((parameter.grad - expected[name]).abs().max()) / scale
        assert off < 1e-4, f"{name} is {off:.1e} off"


def test_a_tile_is_read_alone(alone):
    config = decoder_config(TINY, ParallelConfig(), Precision.fp64)
    module = VisualAbstractor(config, TINY, alone.collection).double()
    torch.manual_seed(0)
    for parameter in module.parameters():  # built outside a model, they are not drawn yet
        torch.nn.init.normal_(parameter, std=0.1)
    features = torch.randn(3, 4, 16, dtype=torch.float64)

    together, one = module(flat(features)), module(flat(features[1:2]))

    keys = TINY.keys_per_tile
    assert together.shape == (3 * keys, 1, TINY.hidden_size)
    torch.testing.assert_close(together[keys : 2 * keys], one, rtol=0, atol=1e-14)


def test_a_place_is_told_by_its_column_first_and_then_its_row():
    table = grid_positions(3, 8)

    column, row = positions(torch.tensor([2, 1]), 4)
    torch.testing.assert_close(table[1 * 3 + 2], torch.cat([column, row]))


def test_a_tile_costs_its_queries_and_an_end_vector():
    assert TINY.keys_per_tile == 4
    assert tiny_model().keys_per_tile == tiny_model().vision_tower.patches_per_tile


def test_sizes_that_cannot_work_are_said():
    wrong = tiny_model(
        projector=ProjectorKind.abstractor,
        abstractor=AbstractorConfig(num_queries=0, num_attention_heads=3),
    )

    problems = list(wrong.problems())

    assert len(problems) == 2
    assert "model.abstractor.num_queries=0" in problems[0]
    assert "model.abstractor.num_attention_heads=3 does not divide" in problems[1]
    assert list(TINY.problems()) == []


@pytest.mark.parametrize("kind", list(FusionKind), ids=str)
@pytest.mark.parametrize("places", [PLACES, [(4, []), (3, [])]], ids=["tiles", "text only"])
def test_an_owl3_with_an_abstractor_learns_from_every_pack(alone, kind, places):
    config = tiny_model(kind, projector=ProjectorKind.abstractor, abstractor=TINY.abstractor)
    (model,) = build_model(config, ParallelConfig(), Precision.fp32, alone)

    model(make_pack(places)).sum().backward()

    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    looked = any(offsets for _, offsets in places)
    assert bool(model.projector.queries.grad.any()) == looked


@pytest.mark.parametrize("kind", list(FusionKind), ids=str)
def test_a_sample_behind_an_abstractor_is_the_same_alone_and_packed(alone, kind):
    config = tiny_model(kind, projector=ProjectorKind.abstractor, abstractor=TINY.abstractor)
    (model,) = build_model(config, ParallelConfig(), Precision.fp64, alone)
    batch = make_pack(PLACES)
    tiles = batch.pixel_values.split([len(offsets) for _, offsets in PLACES])
    tokens = batch.tokens.split([length for length, _ in PLACES])
    packed = model(batch).split([length for length, _ in PLACES])

    for index, place in enumerate(PLACES):
        one = replace(make_pack([place]), tokens=tokens[index], pixel_values=tiles[index])
        one.labels[: place[0] - 1] = tokens[index][1:]
        torch.testing.assert_close(model(one), packed[index], rtol=0, atol=1e-12)


def test_the_conversion_table_names_every_weight(alone):
    (model,) = build_model(TINY, ParallelConfig(), Precision.fp32, alone)

    assert {entry.ours for entry in entries(TINY)} == set(dict(model.named_parameters()))
