# SPDX-License-Identifier: Apache-2.0
"""The distributed optimizer's state, saved and loaded with torch's AdamW."""

import pytest
import torch
from megatron.core.optimizer import DistributedOptimizer

from owl.checkpoint.content import OPTIMIZER_SHARDING, weight_shards
from owl.checkpoint.load import load_everything
from owl.checkpoint.save import save_checkpoint
from owl.checkpoint.state import TrainState
from owl.config.run import OptimConfig, ParallelConfig, Precision
from owl.mcore.adam_state import TorchAdamState
from owl.mcore.optimizer import build_optimizer
from owl.mcore.parameters import global_names
from owl.mcore.provider import build_model, wrap_for_training
from tests.tiny_run import EVERYTHING, tiny_model


class Training:
    """A model and its optimizer, fed with made-up gradients."""

    def __init__(self, groups) -> None:
        torch.manual_seed(0)
        chunks = build_model(tiny_model(), ParallelConfig(), Precision.fp32, groups)
        self.chunks = wrap_for_training(
            chunks,
            EVERYTHING,
            ParallelConfig(),
            precision=Precision.fp32,
            distributed_optimizer=True,
        )
        self.optimizer = build_optimizer(
            OptimConfig(warmup_fraction=0.0),
            self.chunks,
            groups,
            precision=Precision.fp32,
            train_steps=10,
        )

    def step(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.optimizer.zero_grad(self.chunks)
        for _, parameter in global_names(self.chunks):
            parameter.main_grad.copy_(torch.randn(parameter.shape, generator=generator))
        self.optimizer.step()

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in global_names(self.chunks)}

    def steps_counted(self) -> set[float]:
        """The step of every parameter, as AdamW counts it."""
        parts = self.optimizer.megatron.chained_optimizers
        return {float(s["step"]) for part in parts for s in part.optimizer.state.values()}


@pytest.fixture(scope="module")
def straight(alone):
    training = Training(alone)
    for seed in (1, 2, 3):
        training.step(seed)
    return training


@pytest.fixture(scope="module")
def checkpoint(alone, tmp_path_factory):
    training = Training(alone)
    for seed in (1, 2):
        training.step(seed)
    return save_checkpoint(
        tmp_path_factory.mktemp("run"),
        training.chunks,
        training.optimizer.megatron,
        TrainState(step=2),
        tiny_model(),
        alone,
        carried=None,
        keep=0,
    )


@pytest.fixture
def resumed(alone, checkpoint):
    training = Training(alone)
    load_everything(checkpoint, training.chunks, training.optimizer.megatron, tiny_model(), alone)
    training.optimizer.seek(2)
    return training


def test_a_resumed_optimizer_goes_on_bit_for_bit(straight, resumed):
    resumed.step(3)

    expected = straight.weights()
    assert all(torch.equal(weight, expected[n]) for n, weight in resumed.weights().items())


def test_a_step_after_loading_counts_once(resumed):
    assert resumed.steps_counted() == {2.0}

    resumed.step(3)

    assert resumed.steps_counted() == {3.0}


def test_no_two_parameters_share_a_step_after_loading(resumed):
    parts = resumed.optimizer.megatron.chained_optimizers
    steps = [state["step"] for part in parts for state in part.optimizer.state.values()]

    assert len(steps) > 1
    assert len({step.data_ptr() for step in steps}) == len(steps)


def test_a_fresh_optimizer_can_be_described_before_its_first_step(alone):
    training = Training(alone)

    state = training.optimizer.megatron.state_dict()

    assert [group["step"] for group in state["optimizer"]["param_groups"]] == [0.0, 0.0]


def test_describing_a_fresh_optimizer_does_not_change_its_first_step(alone):
    described, plain = Training(alone), Training(alone)
    described.optimizer.megatron.state_dict()

    described.step(1)
    plain.step(1)

    expected = plain.weights()
    assert all(torch.equal(weight, expected[n]) for n, weight in described.weights().items())


def test_only_the_distributed_optimizer_of_torchs_adamw_is_mended(alone):
    parts = Training(alone).optimizer.megatron.chained_optimizers

    assert [type(part) for part in parts] == [TorchAdamState]
    assert isinstance(parts[0].optimizer, torch.optim.AdamW)


def test_megatron_still_needs_the_mend(alone):
    """When this fails, adam_state.py can go."""
    training = Training(alone)
    (part,) = training.optimizer.megatron.chained_optimizers
    part.__class__ = DistributedOptimizer

    with pytest.raises((KeyError, AssertionError)):
        training.optimizer.megatron.sharded_state_dict(
            weight_shards(training.chunks, alone), is_loading=True, metadata=OPTIMIZER_SHARDING
        )
