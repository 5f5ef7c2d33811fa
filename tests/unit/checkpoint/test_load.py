# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of another model is refused with every difference named."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from owl.checkpoint.load import check_same_model, load_model_config
from owl.config.run import AttentionKind, FusionKind, HyperAttentionConfig, ModelConfig
from owl.errors import CheckpointError
from tests.tiny_run import tiny_model


def write_model(folder: Path, model: ModelConfig) -> Path:
    (folder / "model.json").write_text(json.dumps(asdict(model)))
    return folder


def test_the_architecture_comes_back_as_it_was(tmp_path):
    model = tiny_model(FusionKind.joint_softmax)

    assert load_model_config(write_model(tmp_path, model)) == model


def test_every_difference_is_named_with_both_values(tmp_path):
    checkpoint = write_model(tmp_path, tiny_model())
    other = tiny_model(
        hidden_size=64,
        hyper_attention=HyperAttentionConfig(layer_indices=[0], fusion=FusionKind.static_gate),
    )

    with pytest.raises(CheckpointError) as refusal:
        check_same_model(checkpoint, other)

    assert str(refusal.value).splitlines() == [
        f"{checkpoint} holds another model:",
        "  model.hidden_size: 32 in the checkpoint, 64 in the run",
        "  model.hyper_attention.fusion: token_gate in the checkpoint, static_gate in the run",
        "  model.hyper_attention.layer_indices: [1, 3] in the checkpoint, [0] in the run",
        "Choose the model= that the checkpoint was made with.",
    ]


def test_how_a_model_runs_may_differ(tmp_path):
    checkpoint = write_model(tmp_path, tiny_model())

    check_same_model(
        checkpoint,
        tiny_model(
            name="other",
            attention=AttentionKind.reference,
            init_std=0.5,
            max_position_embeddings=64,
        ),
    )


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no model\.json"):
        check_same_model(tmp_path, tiny_model())
