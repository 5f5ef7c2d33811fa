# SPDX-License-Identifier: Apache-2.0
"""Tiles spliced into the text, and layers that tell text from media, against plain PyTorch."""

from dataclasses import replace

import pytest
import torch

from owl.config.run import (
    AbstractorConfig,
    AttentionKind,
    FamilyKind,
    ModelConfig,
    ParallelConfig,
    Precision,
    ProjectorKind,
    TowerKind,
    VisionTowerConfig,
)
from owl.convert.families import PUBLISHED
from owl.errors import BatchError
from owl.mcore.provider import build_model
from owl.model.freeze import part_of
from owl.model.media import pack_context
from tests.oracle.owl2_decoder import HEADS, LAYERS, owl2_loss
from tests.unit.model.packs import Place, make_pack

FAMILIES = [FamilyKind.owl2, FamilyKind.owl1]
VECTORS = 3  # of a tile
# Adjacent tiles, text only, a tile that ends the sample, one that begins it, one among text.
PLACES: list[Place] = [(9, [1, 4]), (5, []), (6, [3]), (4, [0]), (8, [2])]
TEXT_ONLY: list[Place] = [(5, []), (3, [])]


def model_config(kind: FamilyKind) -> ModelConfig:
    """The sizes that the reference is written for."""
    return ModelConfig(
        name="tiny",
        family=kind,
        template="owl1" if kind is FamilyKind.owl1 else "mplug_owl2",
        hidden_size=32,
        ffn_hidden_size=48,
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        num_kv_heads=HEADS,
        vocab_size=61,
        rope_theta=1e4,
        projector=ProjectorKind.abstractor,
        abstractor=AbstractorConfig(
            num_queries=VECTORS - 1,
            num_layers=1,
            num_attention_heads=2,
            ffn_hidden_size=20,
            positions=kind is FamilyKind.owl2,
        ),
        vision_tower=VisionTowerConfig(
            kind=TowerKind.clip,
            hidden_size=16,
            ffn_hidden_size=24,
            num_layers=2,
            num_attention_heads=2,
            image_size=28,
        ),
    )


@pytest.fixture(scope="module", params=FAMILIES, ids=str)
def model(request, alone):
    (model,) = build_model(model_config(request.param), ParallelConfig(), Precision.fp64, alone)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def reference_weights(model) -> dict[str, torch.Tensor]:
    """Name a model's parameters as the reference does, with their gradients behind them."""
    config, parameters = model.model_config, dict(model.named_parameters())
    published: dict[str, torch.Tensor] = {}
    for entry in PUBLISHED[config.family].entries(config):
        parts = entry.to_published(parameters[entry.ours])
        published |= dict(zip(entry.published, parts, strict=True))
    if config.family is FamilyKind.owl2:
        return published
    both = {}  # one copy stands for both
    for name, weight in published.items():
        name = name.removeprefix("language_model.")
        both[name] = weight
        for i in range(2):
            both[name.replace(".weight", f".multiway.{i}.weight")] = weight
    return both


def reference_loss(model, places: list[Place], batch) -> torch.Tensor:
    """Sum the losses of samples, each computed alone and without packing."""
    weights, total, tile = reference_weights(model), 0.0, 0
    for tokens, (length, offsets) in zip(batch.tokens.split(batch.seqlens), places, strict=True):
        tiles = batch.pixel_values[tile : tile + len(offsets)]
        tile += len(offsets)
        vectors = model.encode(tiles).unflatten(0, (-1, VECTORS)).squeeze(2)
        rows = list(weights["model.embed_tokens.weight"][tokens])
        is_image = torch.zeros(1, length, dtype=torch.bool)
        for offset, of_tile in zip(offsets, vectors, strict=True):
            rows[offset : offset + VECTORS] = list(of_tile)
            is_image[0, offset : offset + VECTORS] = True
        embeddings = torch.stack(rows)[None]
        total = total + owl2_loss(weights, embeddings, is_image, tokens[None]) * (length - 1)
    return total


@pytest.mark.parametrize(
    "places",
    [PLACES, TEXT_ONLY, [(7, [0, 3])]],
    ids=["tiles and text", "text only", "adjacent"],
)
def test_losses_and_gradients_are_those_of_plain_pytorch(model, places):
    batch = make_pack(places, vocab_size=61)
    parameters = dict(model.named_parameters())

    loss = model(batch).sum()
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    expected = reference_loss(model, places, batch)
    plain = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)

    # The reference has float32 angles.
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    for name, mine, theirs in zip(parameters, gradients, plain, strict=True):
        theirs = torch.zeros_like(mine) if theirs is None else theirs
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8, msg=name)


def test_text_alone_gives_the_picture_side_gradients_of_zero(model):
    batch = make_pack(TEXT_ONLY, vocab_size=61)
    model.zero_grad()

    model(batch).sum().backward()

    for name, parameter in model.named_parameters():
        of_pictures = part_of(name) in ("vision_tower", "projector", "fusion")
        assert bool(parameter.grad.any()) != of_pictures, name


def test_ids_below_a_tile_have_no_influence(model):
    batch = make_pack(PLACES, vocab_size=61)
    tokens = batch.tokens.clone()
    tokens[1:7] = 60 - tokens[1:7]  # the first sample's tiles

    unlabelled = replace(batch, labels=batch.labels.index_fill(0, torch.arange(7), -100))
    assert torch.equal(model(replace(unlabelled, tokens=tokens)), model(unlabelled))


def test_attention_over_the_whole_pack_agrees(model, alone):
    config = replace(model.model_config, attention=AttentionKind.reference)
    (other,) = build_model(config, ParallelConfig(), Precision.fp64, alone)
    other.load_state_dict(model.state_dict())
    batch = make_pack(PLACES, vocab_size=61)

    torch.testing.assert_close(other(batch), model(batch), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("places", "free"), [([(4, [2])], 2), ([(9, [1, 3])], 2)], ids=["past the end", "overlapping"]
)
def test_a_tile_without_room_is_an_error_that_names_the_sample(places, free):
    batch = make_pack([(3, []), *places])

    with pytest.raises(BatchError, match=rf"sample sample1: .* 3 rows, but only {free} are free"):
        pack_context(batch, model_config(FamilyKind.owl2), torch.float64)


def test_rows_of_media_are_counted_through_the_pack():
    pack = pack_context(make_pack(PLACES), model_config(FamilyKind.owl2), torch.float64)

    assert pack.media_rows.tolist() == [
        *(1, 2, 3, 4, 5, 6),
        *(14 + 3, 14 + 4, 14 + 5),
        *(20, 21, 22),
        *(24 + 2, 24 + 3, 24 + 4),
    ]
    assert pack.is_media.nonzero().flatten().tolist() == pack.media_rows.tolist()
