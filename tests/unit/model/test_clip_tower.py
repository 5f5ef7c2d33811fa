# SPDX-License-Identifier: Apache-2.0
"""The tower on Megatron's transformer block computes what transformers' CLIP computes."""

import pytest
import torch
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from owl.config.run import ParallelConfig, Precision, Recompute, TowerKind, VisionTowerConfig
from owl.convert.tables.layouts import merge_qkv
from owl.mcore.parameters import load_full
from owl.mcore.provider import build_model
from tests.tiny_run import tiny_model

SIZE, WIDTH, HEADS, LAYERS = 30, 16, 2, 2
MODEL = tiny_model(
    vision_tower=VisionTowerConfig(
        kind=TowerKind.clip,
        hidden_size=WIDTH,
        ffn_hidden_size=24,
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIZE,
    )
)


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=14,
        layer_norm_eps=1e-6,
        hidden_act="quick_gelu",
    )
    model = CLIPVisionModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def our_weights(clip) -> dict[str, torch.Tensor]:
    """Name CLIP's weights as the tower does."""
    theirs = {name.removeprefix("vision_model."): w for name, w in clip.state_dict().items()}
    ours = {
        "class_embedding": theirs["embeddings.class_embedding"][None, None],
        "patch_embedding.weight": theirs["embeddings.patch_embedding.weight"],
        "position_embedding": theirs["embeddings.position_embedding.weight"][None],
    }
    names = {
        "layer_norm1": "input_layernorm",
        "self_attn.out_proj": "self_attention.linear_proj",
        "layer_norm2": "pre_mlp_layernorm",
        "mlp.fc1": "mlp.linear_fc1",
        "mlp.fc2": "mlp.linear_fc2",
    }
    for p in ("weight", "bias"):
        ours[f"pre_layernorm.{p}"] = theirs[f"pre_layrnorm.{p}"]
        ours[f"encoder.final_layernorm.{p}"] = theirs[f"post_layernorm.{p}"]
        for i in range(LAYERS):
            layer = f"encoder.layers.{i}."
            for their, our in names.items():
                ours[f"{layer}{our}.{p}"] = theirs[f"{layer}{their}.{p}"]
            parts = (theirs[f"{layer}self_attn.{each}_proj.{p}"] for each in "qkv")
            ours[f"{layer}self_attention.linear_qkv.{p}"] = merge_qkv(*parts, HEADS)
    return {f"vision_tower.{name}": weight for name, weight in ours.items()}


def build(alone, clip, **parallel):
    chunks = build_model(MODEL, ParallelConfig(**parallel), Precision.fp64, alone)
    weights = our_weights(clip)
    missing = load_full(chunks, weights.items())
    assert not [name for name in missing if name.startswith("vision_tower.")]
    return chunks[0].vision_tower


def test_features_are_all_of_clips_with_its_last_norm_over_each(alone, clip):
    pixel_values = torch.randn(3, 3, SIZE, SIZE, dtype=torch.float64)

    features = build(alone, clip)(pixel_values)

    hidden_states = clip(pixel_values, output_hidden_states=True).hidden_states[-1]
    norm = next(module for name, module in clip.named_modules() if name.endswith("post_layernorm"))
    assert features.shape == (3, 1 + 4, WIDTH)
    torch.testing.assert_close(features, norm(hidden_states), rtol=1e-12, atol=1e-12)


def test_bytes_are_normalised_as_clips_processor_does(alone, clip):
    tower, processor = build(alone, clip), CLIPImageProcessor()
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 3, 1, 3)

    mean, deviation = (
        torch.tensor(each, dtype=torch.float64)[:, None, None]
        for each in (processor.image_mean, processor.image_std)
    )
    expected = (levels.double() / 255 - mean) / deviation
    torch.testing.assert_close(tower.normalise(levels), expected)


@pytest.mark.parametrize("recompute", list(Recompute), ids=str)
def test_every_parameter_learns_whatever_is_recomputed(alone, clip, recompute):
    tower = build(alone, clip, recompute_tower=recompute)
    tiles = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    kept = build(alone, clip)

    for each in (tower, kept):
        each(tiles).square().sum().backward()

    for (name, mine), theirs in zip(tower.named_parameters(), kept.parameters(), strict=True):
        assert mine.grad.any(), name
        assert torch.equal(mine.grad, theirs.grad), name
