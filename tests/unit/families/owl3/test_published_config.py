# SPDX-License-Identifier: Apache-2.0
"""Reading architectures from published configs."""

import pytest

from owl.config.run import ProjectorKind
from owl.errors import CheckpointError
from owl.families.owl3.config import FusionKind
from owl.families.owl3.published_config import build_config, claims, read_config
from owl.families.owl3.variants_owl3 import variant_of

LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
LAYER = "language_model.model.layers.0.self_attn"
MEDIA = f"{LAYER}.v_kv_proj.weight"


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        ([MEDIA, f"{LAYER}.gate_proj.0.weight"], "240728"),
        ([MEDIA, f"{LAYER}.gate"], "241014"),
        ([MEDIA, "language_model.model.layers.0.mlp.gate_proj.weight"], "241101"),
    ],
)
def test_tensor_names_tell_the_variant(names, variant):
    assert variant_of(names) == variant


def test_a_checkpoint_without_image_layers_is_sent_to_init():
    hf = LANGUAGE | {"hyper_layers": [1], "vision_config": {}}
    with pytest.raises(CheckpointError, match=r"owl\.convert init"):
        read_config(hf, ["model.embed_tokens.weight"], "owl")


@pytest.mark.parametrize(
    ("config", "names", "claimed"),
    [
        ({"model_type": "mplugowl3"}, [], True),
        ({"model_type": "mplug_owl2"}, [MEDIA], False),
        ({}, [MEDIA], True),  # early folders have no model_type
        ({}, ["model.embed_tokens.weight"], False),
    ],
)
def test_folders_are_recognised_by_model_type_or_else_by_names(config, names, claimed):
    assert claims(config, names) is claimed


def test_published_hyper_layers_count_from_one():
    hf = LANGUAGE | {"hyper_layers": [1, 3], "vision_config": {"image_size": 28}}

    model = read_config(hf, [MEDIA, f"{LAYER}.gate"], "owl")

    assert model.hyper_attention.layer_indices == [0, 2]
    assert model.hyper_attention.fusion is FusionKind.static_gate
    assert model.vision_tower.image_size == 28


def test_the_newest_variant_has_no_gate_no_shift_and_an_mlp():
    model = build_config(LANGUAGE, {}, "241101", [1], "owl")

    assert model.hyper_attention.fusion is FusionKind.joint_softmax
    assert model.hyper_attention.media_position_shift == 0
    assert model.projector is ProjectorKind.mlp


@pytest.mark.parametrize(
    ("extra", "theta"),
    [({"rope_theta": 5e5}, 5e5), ({"rope_parameters": {"rope_theta": 5e5}}, 5e5), ({}, 1e6)],
)
def test_the_rotary_base_is_found_where_each_transformers_writes_it(extra, theta):
    assert build_config(LANGUAGE | extra, {}, "240728", [1], "owl").rope_theta == theta
