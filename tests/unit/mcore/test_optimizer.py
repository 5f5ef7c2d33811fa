# SPDX-License-Identifier: Apache-2.0
"""The learning-rate schedule, as Megatron's optimizer really uses it."""

import pytest
import torch

from owl.config.run import LrDecay, OptimConfig, ParallelConfig, Precision, Trainable
from owl.mcore.optimizer import Optimizer, build_optimizer, warmup_steps
from owl.mcore.parameters import global_names
from owl.mcore.provider import build_model, wrap_for_training
from tests.tiny_run import EVERYTHING, tiny_model

PEAK, MINIMUM, STEPS = 1e-2, 1e-3, 10
ONLY_PROJECTOR = Trainable(vision_tower=False, projector=True, language_model=False, fusion=False)


@pytest.fixture(scope="module")
def make(alone):
    """Build an optimizer over a small model, and return both."""

    def build(trainable=EVERYTHING, **settings):
        settings = {"learning_rate": PEAK, "min_learning_rate": MINIMUM} | settings
        chunks = wrap_for_training(
            build_model(tiny_model(), ParallelConfig(), Precision.fp32, alone),
            trainable,
            ParallelConfig(),
            precision=Precision.fp32,
            distributed_optimizer=True,
        )
        optim = OptimConfig(**settings)
        optimizer = build_optimizer(
            optim, chunks, alone, precision=Precision.fp32, train_steps=STEPS
        )
        return optimizer, chunks

    return build


@pytest.fixture(scope="module")
def rates_of(make):
    def run(**settings) -> list[float]:
        optimizer, _ = make(trainable=ONLY_PROJECTOR, **settings)
        return rates(optimizer, STEPS)

    return run


def rates(optimizer: Optimizer, steps: int) -> list[float]:
    """Step without gradients, and return the rates that AdamW used."""
    used = []
    for _ in range(steps):
        used += {group["lr"] for group in optimizer.megatron.param_groups}
        assert optimizer.step().learning_rate == used[-1]
    return used


@pytest.mark.parametrize("decay", list(LrDecay), ids=str)
def test_warm_up_starts_above_zero_rises_evenly_and_reaches_the_peak(rates_of, decay):
    used = rates_of(warmup_fraction=0.4, decay=decay)

    assert used[:4] == pytest.approx([PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK])
    assert max(used) == pytest.approx(PEAK)


@pytest.mark.parametrize("decay", [LrDecay.cosine, LrDecay.linear], ids=str)
@pytest.mark.parametrize("warmup", [0.0, 0.4, 1.0])
def test_the_last_step_has_the_minimum(rates_of, decay, warmup):
    used = rates_of(warmup_fraction=warmup, decay=decay)

    assert used[-1] == pytest.approx(MINIMUM)
    assert min(used) > 0


def test_the_rate_only_falls_after_warm_up(rates_of):
    used = rates_of(warmup_fraction=0.4)[3:]

    assert used == sorted(used, reverse=True)
    assert len(set(used)) == len(used)


def test_a_constant_rate_stays_at_the_peak(rates_of):
    assert rates_of(warmup_fraction=0.0, decay=LrDecay.constant) == pytest.approx([PEAK] * STEPS)


@pytest.mark.parametrize("steps_done", [0, 3, 9])
def test_seeking_goes_on_where_an_uninterrupted_schedule_would(make, steps_done):
    straight, _ = make(ONLY_PROJECTOR, warmup_fraction=0.4)
    resumed, _ = make(ONLY_PROJECTOR, warmup_fraction=0.4)

    resumed.seek(steps_done)

    assert rates(resumed, STEPS - steps_done) == rates(straight, STEPS)[steps_done:]


@pytest.mark.parametrize(
    ("fraction", "train_steps", "expected"),
    [(0.03, 1000, 30), (0.0, 10, 0), (1.0, 10, 9), (0.5, 1, 0)],
)
def test_warm_up_leaves_at_least_one_step(fraction, train_steps, expected):
    assert warmup_steps(OptimConfig(warmup_fraction=fraction), train_steps) == expected


def test_only_what_learns_is_updated(make):
    optimizer, chunks = make(ONLY_PROJECTOR, warmup_fraction=0.0)
    before = {name: p.detach().clone() for name, p in global_names(chunks)}
    optimizer.zero_grad(chunks)
    for _, parameter in global_names(chunks):
        if parameter.requires_grad:
            parameter.main_grad.fill_(1.0)

    optimizer.step()

    changed = {n for n, p in global_names(chunks) if not torch.equal(p, before[n])}
    assert changed == {"projector.linear.weight", "projector.linear.bias"}


def test_the_reported_norm_is_that_before_clipping(make):
    optimizer, chunks = make(ONLY_PROJECTOR, clip_grad_norm=0.5)
    learning = [p for _, p in global_names(chunks) if p.requires_grad]
    optimizer.zero_grad(chunks)
    for parameter in learning:
        parameter.main_grad.fill_(2.0)
    expected = 2.0 * sum(p.numel() for p in learning) ** 0.5

    result = optimizer.step()

    assert result.grad_norm == pytest.approx(expected, rel=1e-5)
    assert not result.skipped
