# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of another model is refused with every difference named."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from owl.checkpoint.content import weight_shards
from owl.checkpoint.load import (
    check_can_start,
    check_same_model,
    load_model_config,
    load_weights,
)
from owl.checkpoint.save import write_checkpoint
from owl.checkpoint.state import TrainState
from owl.config.run import AttentionKind, DeviceKind, ModelConfig, ParallelConfig, Precision
from owl.errors import CheckpointError
from owl.families.owl3.config import FusionKind, HyperAttentionConfig
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model
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


def test_states_beside_weights_are_not_stored_and_older_checkpoints_that_hold_them_load(tmp_path):
    model, alone = tiny_model(), ParallelConfig(device=DeviceKind.cpu)
    with process_groups(alone, alone=True) as groups:
        saved, loaded = (
            build_model(model, alone, Precision.fp32, groups)[0].requires_grad_(False)
            for _ in range(2)
        )
        content = weight_shards([saved], groups)["model0"]
        everything = saved.sharded_state_dict()
        beside = everything.keys() - content.keys()
        assert beside and all(name.endswith("_extra_state") for name in beside)
        checkpoint = write_checkpoint(
            tmp_path / "older", {"model0": everything}, model, TrainState(), groups
        )
        loaded.load_state_dict({name: w + 1 for name, w in loaded.named_parameters()})

        load_weights(checkpoint, [loaded], model, groups)

    for name, weight in saved.named_parameters():
        assert torch.equal(loaded.get_parameter(name), weight), name


def test_a_stage_may_read_samples_differently_than_its_start_did(tmp_path):
    checkpoint = write_model(tmp_path, tiny_model())
    other = tiny_model(template="v3")
    other.vision_tower.image_size = 56

    check_can_start(checkpoint, other)
    with pytest.raises(CheckpointError, match=r"template.*\n.*image_size"):
        check_same_model(checkpoint, other)
