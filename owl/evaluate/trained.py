# SPDX-License-Identifier: Apache-2.0
"""Loss and greedy answers of a model in training, alike in every layout."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from owl.data.samples import PackedBatch
from owl.evaluate.greedy import likeliest_next
from owl.mcore.process_groups import ProcessGroups
from owl.mcore.provider import synchronized_weights
from owl.mcore.schedule import forward_backward, sum_over_data_parallel


@contextmanager
def evaluating(chunks: list[nn.Module]) -> Iterator[None]:
    """Use the newest weights, without dropout."""
    with synchronized_weights(chunks):
        for chunk in chunks:
            chunk.eval()
        try:
            yield
        finally:
            for chunk in chunks:
                chunk.train()


def mean_loss(
    chunks: Sequence[nn.Module], rounds: Iterable[list[PackedBatch]], groups: ProcessGroups
) -> float:
    """Return the loss per unit of loss weight, over all ranks; all of them call this.

    Args:
        chunks: this rank's model, wrapped for training.
        rounds: this rank's micro-batches, in as many rounds as on every rank.
        groups: Megatron's process groups.
    """
    loss, weight = 0.0, 0.0
    for batches in rounds:
        loss += forward_backward(chunks, batches, groups, total_weight=1.0, forward_only=True)
        weight += sum(batch.supervised_weight for batch in batches)
    return loss / max(sum_over_data_parallel(weight, groups), 1e-12)


def likeliest_tokens(
    chunks: Sequence[nn.Module], batch: PackedBatch, groups: ProcessGroups
) -> list[int]:
    """Return the likeliest token after each sample of a pack; all ranks of a replica call this."""
    # The interleaved schedule takes micro-batches in groups of its stages.
    count = groups.pp_size if len(chunks) > 1 else 1

    def forward_step(batches: Iterator[PackedBatch], model: nn.Module) -> tuple[Tensor, Any]:
        one = next(batches).to(groups.device)

        def collect(logits: Tensor, non_loss_data: bool) -> list[int]:
            return likeliest_next(one, logits)

        return model(one, return_logits=True), collect

    iterators = [iter([batch] * count) for _ in chunks]
    found = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if len(chunks) > 1 else iterators[0],
        model=list(chunks),
        num_microbatches=count,
        seq_length=1,  # stages exchange shapes
        micro_batch_size=1,
        forward_only=True,
        collect_non_loss_data=True,
    )
    tokens: list[list[int]] = [found[0] if groups.is_last_stage else []]
    if groups.pp_size > 1:
        pipeline = groups.collection.pp
        dist.broadcast_object_list(tokens, group=pipeline, group_src=groups.pp_size - 1)
    return tokens[0]
