# SPDX-License-Identifier: Apache-2.0
"""Watch every operation of a step: live bytes, kernels, collectives, waits and copies, by part.

Tensors may be fake or real: a rehearsal watches fake CUDA tensors, its calibration real ones.
"""

import sys
import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

PASSES = ("forward", "backward")
"""Phases that every micro-batch has."""
ALLOCATION = 512
"""Bytes that an allocation is rounded up to, as CUDA's caching allocator does."""
_ROOT = str(Path(__file__).parents[1])
_HERE = str(Path(__file__).parent)
_WITHOUT_KERNEL = {
    *("aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided"),
    *("aten::new_empty_strided", "aten::_unsafe_view", "aten::detach", "aten::alias"),
    *("aten::lift_fresh", "aten::_reshape_alias", "aten::set_", "aten::resize_"),
    *("aten::_local_scalar_dense", "aten::record_stream"),
}
_COPIES = ("aten::_to_copy", "aten::copy_")
_READS_BACK = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
"""Operations that make the host wait for the device."""


@dataclass(slots=True)
class Work:
    """What the device does in one part of a phase."""

    kernels: int = 0
    flops: int = 0  # of matrix products
    matmuls: int = 0
    attentions: int = 0
    attention_flops: int = 0  # of torch's own kernels, which are given no blocks to leave out
    moved_bytes: int = 0  # read and written by all but matrix products and attention


@dataclass(frozen=True, slots=True)
class Collective:
    """A kind of communication, as one rank sees it."""

    phase: str
    kind: str
    group: tuple[int, ...]  # ranks
    where: str


@dataclass
class Record:
    """What was watched."""

    work: dict[tuple[str, str], Work] = field(default_factory=dict)  # (phase, part)
    collectives: Counter[Collective] = field(default_factory=Counter)
    collective_bytes: Counter[Collective] = field(default_factory=Counter)
    log: list[tuple[Collective, int]] = field(default_factory=list)  # collectives in order
    waits: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # phase, what, where
    copies: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # likewise
    peak: int = 0
    peak_parts: dict[str, int] = field(default_factory=dict)
    peak_where: str = ""


class Watch(TorchDispatchMode):
    """Counts while it is entered.

    Args:
        device: type of the device that is watched: "cuda" or "cpu".
        answers: values that take the place of content that fake tensors do not have: by name of an
            operation, a function of its arguments.
    """

    def __init__(
        self, device: str, answers: Mapping[str, Callable[..., Any]] | None = None
    ) -> None:
        super().__init__()
        self.device = device
        self.answers = answers or {}
        self.record = Record()
        self.phase = "build"
        self.live = 0
        self._live_parts: Counter[str] = Counter()
        self._storages = WeakIdKeyDictionary()
        self._parts = ["between"]
        # Autograd numbers its nodes as the forward pass makes them: this finds a node's part.
        self._starts: list[int] = [0]
        self._start_parts: list[str] = ["between"]
        self._at_peak = False

    def start_step(self) -> None:
        """Forget what was counted, and keep what is alive."""
        self.record = Record()
        self._note_peak()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Name what runs inside."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def follow(self, modules: Sequence[nn.Module], part_of: Callable[[str], str | None]) -> None:
        """Name the parts of a model, so that operations can be attributed to them.

        Args:
            modules: the model's chunks.
            part_of: the part that a module's dotted name begins; None inside of another.
        """
        for module in modules:
            for name, child in module.named_modules():
                part = part_of(name.rpartition("module.")[2])
                if part is not None:
                    child.register_forward_pre_hook(lambda *_, part=part: self._enter(part))
                    child.register_forward_hook(lambda *_: self._leave())

    def wait(self, what: str) -> None:
        """Count a call in which the host waits for the device."""
        self.record.waits[self.phase_now, what, _caller()] += 1

    def _enter(self, part: str) -> None:
        self._parts.append(part)
        self._note_start()

    def _leave(self) -> None:
        self._parts.pop()
        self._note_start()

    def _note_start(self) -> None:
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self._start_parts.append(self._parts[-1])

    @property
    def part(self) -> str:
        """The part of the model that runs, forward or backward."""
        node = torch._C._current_autograd_node()
        if node is None:
            return self._parts[-1] if len(self._parts) > 1 else self.phase_now
        if node.name().endswith("AccumulateGrad"):
            return "gradients"
        return self._start_parts[bisect_right(self._starts, node._sequence_nr()) - 1]

    @property
    def phase_now(self) -> str:
        """The phase, with a step divided into its passes."""
        if self.phase != "step":
            return self.phase
        if torch._C._current_autograd_node() is not None:
            return "backward"
        return "forward" if len(self._parts) > 1 else "step"

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func.name().partition(".")[0]
        if name.startswith("prim::"):
            return func(*args, **kwargs)
        self._count_waits(name, args, kwargs)
        answer = self.answers.get(name)
        result = func(*args, **kwargs) if answer is None else answer(func, *args, **kwargs)
        if name.startswith("c10d::"):
            self._count_collective(name, args)
        elif not func.is_view and name not in _WITHOUT_KERNEL:
            self._count_work(func, args, kwargs, result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device:
                self._track(tensor)
        return result

    def _count_waits(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name in _READS_BACK:
            if args[0].device.type == self.device:
                self.record.waits[self.phase_now, name.removeprefix("aten::"), _caller()] += 1
            return
        if name not in _COPIES:
            return
        if name == "aten::copy_":
            target, source = args[0].device.type, args[1].device.type
            free = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        else:
            source = args[0].device.type
            target = torch.device(kwargs.get("device") or args[0].device).type
            free = kwargs.get("non_blocking", False)
        if source != target and self.device in (source, target):
            how = "to the device" if target == self.device else "to the host"
            kind = f"{how}, {'asynchronous' if free else 'blocking'}"
            self.record.copies[self.phase_now, kind, _caller()] += 1

    def _count_collective(self, name: str, args: tuple[Any, ...]) -> None:
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        groups = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.ScriptObject)]
        ranks: tuple[int, ...] = ()
        for group in groups:
            if "ProcessGroup" in str(group._type()):
                ranks = tuple(dist.get_process_group_ranks(dist.ProcessGroup.unbox(group)))
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        kind = name.removeprefix("c10d::").strip("_")
        collective = Collective(self.phase_now, kind, ranks, _caller())
        self.record.collectives[collective] += 1
        self.record.collective_bytes[collective] += size
        self.record.log.append((collective, size))

    def _count_work(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        sizes = {
            id(leaf): _stored_bytes(leaf)
            for leaf in tree_leaves((args, kwargs, result))
            if isinstance(leaf, Tensor) and leaf.device.type == self.device
        }
        if not sizes:
            return
        work = self.record.work.setdefault((self.phase_now, self.part), Work())
        work.kernels += 1
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            work.moved_bytes += sum(sizes.values())
        elif "attention" in func.name():
            work.attentions += 1
            work.attention_flops += count(*args, **kwargs, out_val=result)
        else:
            work.matmuls += 1
            work.flops += count(*args, **kwargs, out_val=result)

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._storages:
            return
        size = -(-storage.nbytes() // ALLOCATION) * ALLOCATION
        owner = self._owner()
        self._storages[storage] = weakref.ref(storage, lambda _: self._free(size, owner))
        self.live += size
        self._live_parts[owner] += size
        if self.live > self.record.peak:
            self.record.peak, self.record.peak_where = self.live, _caller()
            self._at_peak = True

    def _owner(self) -> str:
        """What an allocation now is for."""
        if self.phase in ("build", "wrap", "optimizer"):
            return {"build": "weights", "wrap": "gradients"}.get(self.phase, "optimizer")
        if torch._C._current_autograd_node() is not None:
            return "backward pass"
        return f"activations: {self.part}"

    def _free(self, size: int, owner: str) -> None:
        if self._at_peak:
            self._note_peak()
        self.live -= size
        self._live_parts[owner] -= size

    def _note_peak(self) -> None:
        """Remember what is alive, before anything of it goes."""
        self._at_peak = False
        if self.live >= self.record.peak:
            self.record.peak = self.live
            self.record.peak_parts = {
                owner: size for owner, size in self._live_parts.items() if size
            }


def _stored_bytes(tensor: Tensor) -> int:
    """Bytes that a kernel reads or writes of a tensor: expanded dimensions are read once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride or not size else 1
    return elements * tensor.element_size()


def _caller() -> str:
    """The innermost line of this project, else of megatron-core, that runs now."""
    frame, megatron = sys._getframe(2), ""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_ROOT) and not path.startswith(_HERE):
            return f"owl{path.removeprefix(_ROOT)}:{frame.f_lineno}"
        if not megatron and "/megatron/" in path:
            megatron = f"megatron/{path.partition('/megatron/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return megatron or "autograd"
