# SPDX-License-Identifier: Apache-2.0
"""One call: forward and backward over all micro-batches, through Megatron's pipeline schedule."""

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from owl.data.samples import PackedBatch
from owl.mcore.clock import DeviceClock
from owl.mcore.parameters import unwrapped
from owl.mcore.process_groups import ProcessGroups


def forward_backward(
    chunks: Sequence[nn.Module],
    batches: Sequence[PackedBatch],
    groups: ProcessGroups,
    *,
    total_weight: float,
    forward_only: bool = False,
    full_gradients: bool = False,
) -> float:
    """Run every micro-batch of this data-parallel rank, and accumulate the gradient.

    Args:
        chunks: this rank's model, wrapped for data parallelism.
        batches: micro-batches of this step, the same number on every rank.
        groups: Megatron's process groups.
        total_weight: sum of the loss weights of the *global* batch. Dividing by it here, and by
            nothing elsewhere, makes the gradient independent of how the batch is divided.
        forward_only: no backward pass.
        full_gradients: reduce the full gradient to every data-parallel rank, where a distributed
            optimizer needs its shard only.

    Returns:
        The loss of the global batch, on every rank.
    """
    results = get_forward_backward_func()(
        forward_step_func=_ForwardStep(total_weight, groups.device, learns=not forward_only),
        # Each virtual stage sees every micro-batch.
        data_iterator=[iter(batches) for _ in chunks] if len(chunks) > 1 else iter(batches),
        model=list(chunks),
        num_microbatches=len(batches),
        seq_length=1,  # stages exchange shapes: every row has its own length
        micro_batch_size=1,
        forward_only=forward_only,
        force_all_reduce=full_gradients,
    )
    return _sum_over_ranks(results, groups)


@torch.no_grad()
def collect_logits(
    chunks: Sequence[nn.Module], batches: Sequence[PackedBatch], groups: ProcessGroups
) -> list[Tensor]:
    """Compute the logits of every micro-batch, without gradients.

    Returns:
        [t, v] of each, on the last pipeline stage; empty on the others.
    """

    def step(data: Iterator[PackedBatch], model: nn.Module) -> tuple[Tensor, None]:
        return model(next(data).to(groups.device), return_logits=True), None

    logits: list[Tensor] = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=[iter(batches) for _ in chunks] if len(chunks) > 1 else iter(batches),
        model=list(chunks),
        num_microbatches=len(batches),
        seq_length=1,  # stages exchange shapes: every row has its own length
        micro_batch_size=1,
        forward_only=True,
    )
    return logits


def attach_to_schedule(
    chunks: Sequence[nn.Module], optimizer: Any, groups: ProcessGroups
) -> DeviceClock:
    """Set how Megatron's schedule scales the loss and finalizes the gradients.

    Returns:
        A clock that stops when this rank's forward and backward passes are done, before it waits
        for the gradients of other data-parallel ranks. The caller starts it.
    """
    clock = DeviceClock(groups.device)
    config = unwrapped(chunks[0]).config
    # A weak reference: a sharded optimizer's views of the weights make a cycle with the model that
    # Python's collector does not find, and the process groups' threads would live on with it.
    scaler = weakref.proxy(optimizer)
    config.grad_scale_func = lambda loss: scaler.scale_loss(loss)

    def finalize(model: list[nn.Module], num_tokens: Tensor | None = None, **kwargs: Any) -> None:
        clock.stop()
        # Passing num_tokens would divide again: the loss is already per token of the global batch.
        finalize_model_grads(
            model,
            None,
            pg_collection=groups.collection,
            force_all_reduce=kwargs.get("force_all_reduce", False),
        )
        _add_partial_gradients(model, groups.collection.tp)

    config.finalize_model_grads_func = finalize
    if chunks[0].ddp_config.overlap_grad_reduce:
        no_sync = [chunk.no_sync for chunk in chunks]
        config.no_sync_func = no_sync if len(chunks) > 1 else no_sync[0]
    return clock


def sum_over_data_parallel(value: float, groups: ProcessGroups) -> float:
    """Sum a number over the data-parallel ranks; all of them call this."""
    total = torch.tensor(value, dtype=torch.float64, device=groups.device)
    dist.all_reduce(total, group=groups.collection.dp)
    return float(total)


def _add_partial_gradients(chunks: Sequence[nn.Module], tp_group: dist.ProcessGroup) -> None:
    """Sum the gradients of weights that each rank of a tensor group applied to its own tiles."""
    if tp_group.size() == 1:
        return
    gradients = [
        parameter.main_grad
        for chunk in chunks
        for parameter in chunk.parameters()
        if parameter.requires_grad and getattr(parameter, "partial_over_tensor_group", False)
    ]
    if gradients:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=tp_group)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, total in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(total.view_as(gradient))


class _ForwardStep:
    """The forward step that Megatron calls for each micro-batch."""

    def __init__(self, total_weight: float, device: torch.device, *, learns: bool) -> None:
        self.total_weight = max(total_weight, 1e-12)
        self.device, self.learns = device, learns

    def __call__(self, batches: Iterator[PackedBatch], model: nn.Module) -> tuple[Tensor, Any]:
        batch = next(batches).to(self.device)

        def weigh(losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            loss = (losses * batch.loss_weights.to(losses.dtype)).sum() / self.total_weight
            # Megatron would silently skip such a backward pass.
            assert loss.requires_grad or not self.learns, "the loss depends on no trained parameter"
            return loss, torch.zeros((), dtype=torch.int, device=self.device), loss.detach()

        return model(batch), weigh


def _sum_over_ranks(results: list[Tensor], groups: ProcessGroups) -> float:
    """Sum micro-batch losses over data-parallel ranks, and send the sum to earlier stages."""
    total = torch.zeros((), dtype=torch.float64, device=groups.device)
    for loss in results:
        total += loss.double()
    dist.all_reduce(total, group=groups.collection.dp)
    if groups.pp_size > 1:  # only the last stage computes losses; the others add zero
        dist.all_reduce(total, group=groups.collection.pp)
    return float(total)
