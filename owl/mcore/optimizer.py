# SPDX-License-Identifier: Apache-2.0
"""Megatron's AdamW, sharded over data-parallel ranks or not, and its learning-rate schedule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron.core.optimizer import (
    OptimizerConfig,
    get_megatron_optimizer,
    get_standard_config_overrides,
)
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from torch import nn

from owl.config.run import LrDecay, OptimConfig, Precision
from owl.mcore import adam_state, multi_tensor
from owl.mcore.part_rates import part_rates, rate_overrides
from owl.mcore.process_groups import ProcessGroups
from owl.mcore.transformer_config import DTYPES


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did."""

    grad_norm: float
    learning_rate: float  # the rate that was used
    skipped: bool  # fp16: gradients overflowed, weights are unchanged
    loss_scale: float
    part_rates: Mapping[str, float]  # of parts that have a rate of their own


class Optimizer:
    """Megatron's optimizer and its schedule, stepped together.

    Args:
        megatron: over one or several groups of parameters.
        schedule: of their learning rates.
        rate_factors: of parts with a rate of their own, relative to the schedule's.
    """

    def __init__(
        self, megatron: Any, schedule: OptimizerParamScheduler, rate_factors: Mapping[str, float]
    ) -> None:
        self.megatron = megatron
        self.schedule = schedule
        self.rate_factors = rate_factors
        self._settings = [
            {name: value for name, value in group.items() if name not in ("params", "step")}
            for group in megatron.param_groups
        ]

    def step(self) -> StepResult:
        """Clip, update the weights, and advance the schedule."""
        learning_rate = self.learning_rate
        scale = float(self.megatron.get_loss_scale())
        updated, grad_norm, _ = self.megatron.step()
        self.schedule.step(increment=1)
        rates = {part: learning_rate * factor for part, factor in self.rate_factors.items()}
        return StepResult(float(grad_norm or 0.0), learning_rate, not updated, scale, rates)

    @property
    def learning_rate(self) -> float:
        """The rate that the next step uses."""
        schedule = self.schedule
        return float(schedule.get_lr({"max_lr": schedule.max_lr, "min_lr": schedule.min_lr}))

    def seek(self, steps_done: int) -> None:
        """Set the schedule to its state after a number of steps, on which alone it depends.

        Counting starts at 1, so that the first step of a warm-up has a rate above 0. Rates and
        AdamW's settings are those of the run, also after a checkpoint's were loaded.
        """
        for group, settings in zip(self.megatron.param_groups, self._settings, strict=True):
            group.update(settings)
        self.schedule.num_steps = steps_done + 1
        self.schedule.step(increment=0)

    def zero_grad(self, chunks: list[nn.Module]) -> None:
        """Clear the gradients of the previous step."""
        for chunk in chunks:
            chunk.zero_grad_buffer()
        self.megatron.zero_grad()


def build_optimizer(
    optim: OptimConfig,
    chunks: list[nn.Module],
    groups: ProcessGroups,
    *,
    precision: Precision,
    train_steps: int,
    overlap_param_gather: bool = False,
) -> Optimizer:
    """Build AdamW and its schedule for wrapped model chunks."""
    config = optimizer_config(optim, precision)
    config.overlap_param_gather = overlap_param_gather
    megatron = build_megatron_optimizer(config, chunks, rate_overrides(optim, chunks))
    optimizer = Optimizer(megatron, _schedule(megatron, optim, train_steps), part_rates(optim))
    optimizer.seek(0)
    return optimizer


def optimizer_config(optim: OptimConfig, precision: Precision) -> OptimizerConfig:
    """Translate the settings to Megatron's optimizer config."""
    return OptimizerConfig(
        optimizer="adam",
        lr=optim.learning_rate,
        min_lr=optim.min_learning_rate,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        adam_eps=optim.eps,
        clip_grad=optim.clip_grad_norm,
        params_dtype=DTYPES[precision],
        bf16=precision is Precision.bf16,
        fp16=precision is Precision.fp16,
        initial_loss_scale=optim.initial_loss_scale,
        min_loss_scale=1.0,
        use_distributed_optimizer=optim.distributed,
    )


def build_megatron_optimizer(
    config: OptimizerConfig, chunks: list[nn.Module], overrides: Mapping[Any, Any] | None = None
) -> Any:
    """Build Megatron's optimizer over wrapped chunks, with TorchAdamState around torch's AdamW.

    Args:
        config: of all parameters.
        chunks: the model.
        overrides: what differs for some of them, from rate_overrides.
    """
    multi_tensor.install()
    megatron = get_megatron_optimizer(
        config,
        chunks,
        config_overrides={**get_standard_config_overrides(config), **(overrides or {})},
        use_gloo_process_groups=False,
    )
    adam_state.adopt(megatron)
    return megatron


def _schedule(megatron: Any, optim: OptimConfig, train_steps: int) -> OptimizerParamScheduler:
    """Warm up linearly, then decay to the minimum at the last step."""
    decays = optim.decay is not LrDecay.constant
    return OptimizerParamScheduler(
        megatron,
        init_lr=0.0,
        max_lr=optim.learning_rate,
        min_lr=optim.min_learning_rate if decays else optim.learning_rate,
        lr_warmup_steps=warmup_steps(optim, train_steps),
        lr_decay_steps=train_steps,
        lr_decay_style=str(optim.decay),
        start_wd=optim.weight_decay,
        end_wd=optim.weight_decay,
        wd_incr_steps=train_steps,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,  # `seek` sets it
    )


def warmup_steps(optim: OptimConfig, train_steps: int) -> int:
    """Return the steps of linear warm-up: at most train_steps - 1."""
    return min(round(optim.warmup_fraction * train_steps), train_steps - 1)
