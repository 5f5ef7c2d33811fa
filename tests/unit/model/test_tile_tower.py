# SPDX-License-Identifier: Apache-2.0
"""The tower on Megatron's transformer block computes what transformers' SigLIP computes."""

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from owl.config.run import ParallelConfig, Precision, VisionTowerConfig
from owl.families.owl3.published import entries
from owl.mcore.parameters import load_full
from owl.mcore.provider import build_model
from tests.tiny_run import tiny_model

IMAGE_SIZE = 30  # two patches of 14 pixels a side, and two pixels that fill none
MODEL = tiny_model(
    vision_tower=VisionTowerConfig(
        hidden_size=16,
        ffn_hidden_size=24,
        num_layers=3,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
    )
)


@pytest.fixture(scope="module")
def siglip():
    torch.manual_seed(0)
    model = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=14,
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


@pytest.fixture(scope="module")
def tower(alone, siglip):
    chunks = build_model(MODEL, ParallelConfig(), Precision.fp64, alone)
    published = {
        f"vision_model.{name.removeprefix('vision_model.')}": tensor
        for name, tensor in siglip.state_dict().items()
    }
    load_full(
        chunks,
        (
            (entry.ours, entry.to_ours(tuple(published[name] for name in entry.published)))
            for entry in entries(MODEL)
            if entry.ours.startswith("vision_tower.")
        ),
    )
    return chunks[0].vision_tower


def test_features_are_the_last_hidden_states_but_one_of_siglip(tower, siglip):
    pixel_values = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.float64)

    features = tower(pixel_values)

    expected = siglip(pixel_values, output_hidden_states=True).hidden_states[-2]
    assert features.shape == (3, 4, 16)
    torch.testing.assert_close(features, expected, rtol=1e-13, atol=1e-13)


def test_a_tile_has_the_same_features_among_others(tower):
    tiles = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.float64)

    torch.testing.assert_close(tower(tiles)[1:2], tower(tiles[1:2]), rtol=1e-13, atol=1e-13)


def test_pixels_that_fill_no_patch_have_no_influence(tower):
    tile = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.float64)
    other = tile.clone()
    other[..., 28:] += 1
    other[..., 28:, :] += 1

    assert torch.equal(tower(tile), tower(other))


def test_bytes_are_normalised_to_minus_one_to_one(tower):
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 3, 1, 3)

    expected = torch.tensor([-1.0, -0.6, 1.0], dtype=torch.float64).expand(1, 3, 1, 3)
    torch.testing.assert_close(tower.normalise(levels), expected)


def test_bytes_and_their_normalised_floats_have_the_same_features(tower):
    tiles = torch.randint(0, 256, (2, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    floats = (tiles.double() / 255 - 0.5) / 0.5

    assert torch.equal(tower(tiles), tower(floats))


def test_no_tile_gives_no_features_and_zero_gradients(tower):
    tower.zero_grad()

    features = tower(torch.empty(0, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8))
    features.sum().backward()

    assert features.shape == (0, 4, 16)
    assert all(not parameter.grad.any() for parameter in tower.parameters())
