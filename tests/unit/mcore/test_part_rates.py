# SPDX-License-Identifier: Apache-2.0
"""Learning rates by part and by layer: how far parameters move, and what a resumed run keeps."""

import pytest
import torch

from owl.checkpoint.load import load_everything
from owl.checkpoint.save import save_checkpoint
from owl.checkpoint.state import TrainState
from owl.config.run import OptimConfig, ParallelConfig, PartRates, Precision
from owl.mcore.optimizer import build_optimizer
from owl.mcore.parameters import global_names
from owl.mcore.part_rates import part_rates, rate_factor
from owl.mcore.provider import build_model, wrap_for_training
from owl.model.freeze import part_of
from tests.tiny_run import EVERYTHING, tiny_model

BASE = 1e-3
RATES = PartRates(vision_tower=2e-4, fusion=5e-3)
STEPS = 10


class Training:
    """A model and its optimizer; every gradient is 1, so that AdamW's first step is the rate."""

    def __init__(self, groups, **settings) -> None:
        settings = {"learning_rate": BASE, "min_learning_rate": BASE / 10} | settings
        self.chunks = wrap_for_training(
            build_model(tiny_model(), ParallelConfig(), Precision.fp32, groups),
            EVERYTHING,
            ParallelConfig(),
            precision=Precision.fp32,
            distributed_optimizer=settings.get("distributed", True),
        )
        optim = OptimConfig(warmup_fraction=0.0, clip_grad_norm=0.0, **settings)
        self.optimizer = build_optimizer(
            optim, self.chunks, groups, precision=Precision.fp32, train_steps=STEPS
        )

    def step(self):
        self.optimizer.zero_grad(self.chunks)
        for _, parameter in global_names(self.chunks):
            parameter.main_grad.fill_(1.0)
        return self.optimizer.step()

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in global_names(self.chunks)}

    def moves(self) -> dict[str, float]:
        """By how much one step changes each parameter."""
        before = self.weights()
        self.step()
        return {
            name: float((before[name] - now).abs().mean()) for name, now in self.weights().items()
        }


def first_rate(peak: float, training: Training) -> float:
    """Return the rate of the first step, which a cosine has already lowered a little."""
    schedule = training.optimizer.schedule
    return peak * schedule.get_lr({"max_lr": 1.0, "min_lr": 0.1})


@pytest.mark.parametrize("distributed", [True, False])
def test_each_part_moves_by_its_own_rate(alone, distributed):
    training = Training(alone, rates=RATES, distributed=distributed)
    peaks = {"vision_tower": 2e-4, "projector": BASE, "language_model": BASE, "fusion": 5e-3}
    expected = {part: first_rate(peak, training) for part, peak in peaks.items()}

    moves = training.moves()

    assert {part_of(name) for name in moves} == set(peaks)
    for name, move in moves.items():
        assert move == pytest.approx(expected[part_of(name)], rel=1e-2), name


def test_tower_layers_move_by_less_the_lower_they_are(alone):
    training = Training(alone, tower_layer_decay=0.5)
    expected = first_rate(BASE, training)

    moves = training.moves()

    # The tower of the test has three layers, of which SigLIP's features need two.
    for name, factor in {
        "vision_tower.encoder.layers.1.mlp.linear_fc1.weight": 1.0,
        "vision_tower.encoder.layers.0.mlp.linear_fc1.weight": 0.5,
        "vision_tower.encoder.layers.0.mlp.linear_fc1.bias": 0.5,
        "vision_tower.position_embedding": 0.25,
        "vision_tower.patch_embedding.weight": 0.25,
        "projector.linear.weight": 1.0,
    }.items():
        assert moves[name] == pytest.approx(expected * factor, rel=1e-2), name


def test_the_norm_after_the_layers_counts_as_the_last_layer():
    optim = OptimConfig(tower_layer_decay=0.9, learning_rate=BASE, rates=RATES)

    def factor(name: str) -> float:
        return rate_factor(f"vision_tower.{name}", optim, tower_layers=24)

    assert factor("encoder.final_layernorm.weight") == factor("encoder.layers.23.mlp.x") == 0.2
    assert factor("pre_layernorm.weight") == factor("class_embedding")
    assert factor("class_embedding") == pytest.approx(0.2 * 0.9**24)


def test_every_rate_has_the_shape_of_the_schedule(alone):
    training = Training(alone, rates=RATES, tower_layer_decay=0.5)
    for _ in range(STEPS):
        groups = training.optimizer.megatron.param_groups
        ratios = [group["lr"] / group["lr_mult"] for group in groups]
        base = training.optimizer.learning_rate
        assert ratios == pytest.approx([base] * len(groups))
        result = training.step()
        assert result.part_rates == pytest.approx({"vision_tower": base / 5, "fusion": base * 5})


def test_no_rates_of_parts_make_no_further_groups(alone):
    groups = Training(alone).optimizer.megatron.param_groups

    assert [(group["wd_mult"], group["lr_mult"]) for group in groups] == [(1.0, 1.0), (0.0, 1.0)]
    assert part_rates(OptimConfig(rates=PartRates(projector=1e-3), learning_rate=1e-3)) == {}


def saved_after_two_steps(training, folder, groups):
    for _ in range(2):
        training.step()
    return save_checkpoint(
        folder, training.chunks, training.optimizer.megatron, TrainState(step=2), tiny_model(),
        groups, carried=None, keep=0,
    )  # fmt: skip


def resumed(checkpoint, groups, **settings):
    training = Training(groups, **settings)
    load_everything(checkpoint, training.chunks, training.optimizer.megatron, tiny_model(), groups)
    training.optimizer.seek(2)
    return training


@pytest.mark.parametrize("distributed", [True, False])
def test_a_resumed_run_goes_on_bit_for_bit_with_many_groups(alone, tmp_path, distributed):
    settings = {"rates": RATES, "tower_layer_decay": 0.5, "distributed": distributed}
    straight = Training(alone, **settings)
    again = resumed(saved_after_two_steps(straight, tmp_path, alone), alone, **settings)

    straight.step()
    again.step()

    expected = straight.weights()
    assert all(torch.equal(weight, expected[n]) for n, weight in again.weights().items())


def test_a_resumed_run_has_the_rates_of_its_own_settings(alone, tmp_path):
    checkpoint = saved_after_two_steps(Training(alone, rates=RATES), tmp_path, alone)

    changed = resumed(checkpoint, alone, learning_rate=BASE / 2, rates=PartRates(projector=4e-3))

    peaks = {group["lr_mult"]: group["max_lr"] for group in changed.optimizer.megatron.param_groups}
    assert peaks == {1.0: BASE / 2, 8.0: pytest.approx(4e-3)}
    moves = changed.moves()
    ratio = moves["projector.linear.weight"] / moves["embedding.word_embeddings.weight"]
    assert ratio == pytest.approx(8.0, rel=1e-2)
