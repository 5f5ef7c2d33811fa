# SPDX-License-Identifier: Apache-2.0
"""What takes the place of parts of a step that fake tensors cannot run.

Each keeps the shapes, the memory and the number of kernels of what it stands for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import torch.optim.optimizer as torch_optimizer
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import register_flop_formula

from owl.config.run import RunConfig
from owl.data.samples import IGNORE_INDEX, PackedBatch


@torch.library.custom_op("owl_rehearse::attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """FlexAttention's forward kernel: [1, a, t, d]."""
    raise NotImplementedError("runs on fake tensors only")


@attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(query)


@torch.library.custom_op("owl_rehearse::attention_backward", mutates_args=())
def attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """FlexAttention's backward kernel."""
    raise NotImplementedError("runs on fake tensors only")


@attention_backward.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


# Marks them as attention; their operations are counted from what packs show (owl.data.families).
_KERNELS = [torch.ops.owl_rehearse.attention, torch.ops.owl_rehearse.attention_backward]
register_flop_formula(_KERNELS)(lambda *_, **__: 0)


class _Flex(torch.autograd.Function):
    """Saves what FlexAttention's backward kernel reads."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = attention(query, key, value)
        log_sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        query, key, value, *_ = ctx.saved_tensors
        return attention_backward(grad, query, key, value)


def _flex(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    return _Flex.apply(query, key, value)


def _sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> Tensor:
    """Choose the kernel that torch chooses on a GPU."""
    aten = torch.ops.aten
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal)[0]
    bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    bias = F.pad(bias, (0, -bias.shape[-1] % 8))[..., : bias.shape[-1]]
    bias = bias.expand(*query.shape[:2], -1, -1)
    return aten._scaled_dot_product_efficient_attention(query, key, value, bias, True)[0]


def answers(packs: Sequence[PackedBatch]) -> Mapping[str, Callable[..., Any]]:
    """Content that a step asks tensors for: of scalars, 1; of masks, as many as the packs have."""
    supervised = {len(pack.labels): int((pack.labels != IGNORE_INDEX).sum()) for pack in packs}

    def scalar(func: Any, tensor: Tensor) -> Any:
        return 1.0 if tensor.dtype.is_floating_point else 1

    def nonzero(func: Any, mask: Tensor) -> Tensor:
        rows = supervised.get(len(mask), len(mask))
        return torch.empty(rows, mask.ndim, dtype=torch.int64, device=mask.device)

    def work(func: Any, *args: Any, **kwargs: Any) -> Any:
        return torch._C._distributed_c10d.FakeWork().boxed()

    return {
        "aten::_local_scalar_dense": scalar,
        "aten::nonzero": nonzero,
        # These three have no implementation for fake tensors.
        "c10d::reduce_scatter_tensor_coalesced_": work,
        "c10d::allgather_into_tensor_coalesced_": work,
        "c10d::allreduce_coalesced_": work,
    }


class _Shapes:
    """What other pipeline stages announce: the shapes of what they send.

    Args:
        run: its model and layout.
        packs: in the order in which every stage meets them.
        stage: of the rehearsed rank.
    """

    def __init__(self, run: RunConfig, packs: Sequence[PackedBatch], stage: int) -> None:
        self.model, self.packs = run.model, packs
        self.sharing = run.parallel.tensor if run.parallel.sequence else 1
        (layers,) = run.parallel.stages(run.model.num_layers)[stage]
        looking = run.model.enters.layers
        self.media = {
            "previous": any(layer >= layers.start for layer in looking),
            "next": any(layer >= layers.stop for layer in looking),
        }
        self.received = {"previous": 0, "next": 0}

    def answer(
        self, sends_next: Any, sends_previous: Any, from_previous: bool, from_next: bool
    ) -> tuple[list[int] | None, list[int] | None]:
        """Return the shapes that megatron-core's method would receive."""
        return (
            self._shape("previous") if from_previous else None,
            self._shape("next") if from_next else None,
        )

    def _shape(self, side: str) -> list[int]:
        pack = self.packs[self.received[side] % len(self.packs)]
        self.received[side] += 1
        rows = -(-pack.num_tokens // self.sharing)
        if self.media[side]:
            keys = -(-pack.num_tiles * self.model.keys_per_tile // self.sharing)
            rows += max(keys, self.sharing > 1)  # no rank is left without a row
        return [rows, 1, self.model.hidden_size]


@contextmanager
def fake_job(rank: int, ranks: int) -> Iterator[None]:
    """Be one rank of a job whose other ranks do not exist."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def installed(run: RunConfig, packs: Sequence[PackedBatch], stage: int) -> Iterator[None]:
    """Put the stand-ins in place, in fake tensor mode; arguments as _Shapes takes them."""
    from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
    from megatron.core.tensor_parallel import random

    from owl.mcore import provider
    from owl.model.attention import flex

    def gather_objects(into: list[Any], mine: Any, group: Any = None) -> None:
        into[:] = [mine] * len(into)

    replaced: list[tuple[Any, str, Any]] = [
        (F, "scaled_dot_product_attention", _sdpa),
        (flex, "_compiled", lambda: _flex),
        (provider, "draw_random_start", lambda *_, **__: None),
        (dist, "all_gather_object", gather_objects),
        (dist, "broadcast_object_list", lambda *_, **__: None),
        (random, "_get_cuda_rng_state", lambda *_, **__: torch.get_rng_state()),
        (random, "_set_cuda_rng_state", lambda *_, **__: None),
        (torch.nn.Module, "to", lambda module, *_, **__: module),  # built on the device
        (P2PCommunicator, "_communicate_shapes", _Shapes(run, packs, stage).answer),
        (FakeTensorMode, "avoid_device_init", property(lambda self: True)),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        foreach = torch_optimizer._foreach_supported_types
        foreach.append(FakeTensor)
        stack.callback(foreach.remove, FakeTensor)
        torch.autograd.set_multithreading_enabled(False)
        stack.callback(torch.autograd.set_multithreading_enabled, True)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield
