# SPDX-License-Identifier: Apache-2.0
"""One optimizer step: count tokens and tiles, forward and backward, update."""

import math
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn

from owl.data.samples import IGNORE_INDEX, StepBatch
from owl.errors import BatchError
from owl.mcore.dropout import seed_dropout
from owl.mcore.optimizer import Optimizer
from owl.mcore.process_groups import ProcessGroups
from owl.mcore.schedule import attach_to_schedule, forward_backward
from owl.train.loop import StepReport


def make_step(
    chunks: list[nn.Module], optimizer: Optimizer, groups: ProcessGroups
) -> Callable[[StepBatch], StepReport]:
    """Build the function that the loop calls once a step.

    Args:
        chunks: this rank's model, wrapped for training.
        optimizer: over its parameters.
        groups: Megatron's process groups.
    """
    clock = attach_to_schedule(chunks, optimizer.megatron, groups)

    def step(batch: StepBatch) -> StepReport:
        begin = time.perf_counter()
        counts = _Counts.over_ranks(batch, groups)
        optimizer.zero_grad(chunks)
        seed_dropout(groups, batch.cursor.packs_consumed)
        clock.start()
        loss = forward_backward(chunks, batch.microbatches, groups, total_weight=counts.weight)
        if not math.isfinite(loss):
            raise BatchError(_not_finite(loss, batch))
        result = optimizer.step()
        return StepReport(
            loss=loss,
            grad_norm=result.grad_norm,
            learning_rate=result.learning_rate,
            part_rates=result.part_rates,
            loss_scale=result.loss_scale,
            update_skipped=result.skipped,
            samples=counts.samples,
            packs=counts.packs,
            text_tokens=counts.text_tokens,
            target_tokens=counts.target_tokens,
            tiles=counts.tiles,
            skipped=batch.report.skipped,
            seconds=time.perf_counter() - begin,
            busy_seconds=clock.seconds(),
        )

    return step


class _Counts:
    """Counts over the global batch. `weight`, the sum of loss weights, divides its loss."""

    def __init__(self, numbers: list[float]) -> None:
        self.weight = numbers[0]
        self.samples, self.packs, self.text_tokens, self.tiles, self.target_tokens = (
            round(number) for number in numbers[1:]
        )

    @classmethod
    def over_ranks(cls, batch: StepBatch, groups: ProcessGroups) -> "_Counts":
        """Sum the counts of all data-parallel ranks; all of them call this."""
        report, packs = batch.report, batch.microbatches
        targets = sum(int((pack.labels != IGNORE_INDEX).sum()) for pack in packs)
        weight = sum(pack.supervised_weight for pack in packs)
        mine = [weight, report.samples, report.packs, report.text_tokens, report.tiles, targets]
        numbers = torch.tensor(mine, dtype=torch.float64, device=groups.device)
        dist.all_reduce(numbers, group=groups.collection.dp)
        return cls(numbers.tolist())


def _not_finite(loss: float, batch: StepBatch) -> str:
    keys = [key for pack in batch.microbatches for key in pack.keys]
    shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
    return (
        f"the loss of this step is {loss}. This rank's samples were {shown}. Lower "
        f"optim.learning_rate, or look at these samples; no checkpoint holds this step."
    )
