# SPDX-License-Identifier: Apache-2.0
"""The overview's line about learning rates."""

from owl.config.run import LrDecay, OptimConfig, PartRates, RunConfig, StageConfig, Trainable
from owl.train.overview import rate_line


def line(trainable: Trainable, **optim) -> str:
    stage = StageConfig(train_steps=100, trainable=trainable)
    return rate_line(RunConfig(stage=stage, optim=OptimConfig(**optim)))


def test_trained_parts_are_listed_with_their_peaks_and_the_shape():
    trained = Trainable(projector=True, fusion=True)

    text = line(trained, rates=PartRates(projector=2e-3, vision_tower=1e-6))

    assert text == (
        "learning rate: projector 0.002, fusion 0.001; 3 warm-up steps, then cosine decay to 0.01 "
        "of it"
    )


def test_a_decay_over_the_tower_is_said_where_the_tower_learns():
    optim = {"tower_layer_decay": 0.9, "decay": LrDecay.constant, "warmup_fraction": 0.0}
    tower = Trainable(vision_tower=True, projector=False, fusion=False)

    assert line(tower, **optim) == (
        "learning rate: vision_tower 0.001 (times 0.9 for each layer below its last); "
        "0 warm-up steps, then constant"
    )
    assert "0.9" not in line(Trainable(), **optim)
