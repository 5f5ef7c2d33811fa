# SPDX-License-Identifier: Apache-2.0
"""The real megatron-core on a CPU through gloo: every redirection it needs, in one place.

megatron-core writes `device="cuda"` and `torch.cuda.current_device()` for the training device.
`install()` gives *its* modules a `torch` whose factories and `cuda` namespace use the CPU. Other
modules keep their torch, except for two Tensor methods that cannot be replaced otherwise
(`Tensor.cuda`, and `Tensor.type()` without arguments). It raises where CUDA is in use.
"""

import contextlib
import functools
import importlib
import os
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch

from owl.errors import ConfigError

# Imported before the replacement, so that none is imported later with the original torch.
_MODULES = (
    "megatron.core.distributed",
    "megatron.core.distributed.finalize_model_grads",
    "megatron.core.dist_checkpointing",
    "megatron.core.dist_checkpointing.exchange_utils",
    "megatron.core.dist_checkpointing.strategies.fully_parallel",
    "megatron.core.dist_checkpointing.strategies.state_dict_saver",
    "megatron.core.dist_checkpointing.strategies.torch",
    "megatron.core.optimizer",
    "megatron.core.optimizer.clip_grads",
    "megatron.core.optimizer.distrib_optimizer",
    "megatron.core.optimizer.grad_scaler",
    "megatron.core.pipeline_parallel",
    "megatron.core.pipeline_parallel.p2p_communication",
    "megatron.core.pipeline_parallel.schedules",
    "megatron.core.rerun_state_machine",
    "megatron.core.tensor_parallel",
    "megatron.core.tensor_parallel.random",
    "megatron.core.transformer",
    "megatron.core.transformer.module",
    "megatron.core.transformer.transformer_block",
    "megatron.core.transformer.transformer_layer",
    "megatron.core.utils",
)
_FACTORIES = (
    *("arange", "empty", "empty_like", "full", "full_like", "ones", "ones_like"),
    *("rand", "randn", "tensor", "zeros", "zeros_like"),
)
# Names of the tensor types that the optimizer and clip_grads accept. float64 is added: parity tests
# run the complete step in it.
_TYPE_NAMES = {
    torch.float64: "torch.cuda.FloatTensor",
    torch.float32: "torch.cuda.FloatTensor",
    torch.float16: "torch.cuda.HalfTensor",
    torch.bfloat16: "torch.cuda.BFloat16Tensor",
}
_CPU = torch.device("cpu")
_installed = False


def hide_gpus() -> None:
    """Hide the machine's GPUs from this process and those it starts.

    For parallel.device=cpu on a GPU machine. Has no effect after CUDA's devices were queried.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def is_needed() -> bool:
    """Whether this machine has no CUDA device."""
    return not torch.cuda.is_available()


def is_installed() -> bool:
    """Whether megatron-core has been redirected in this process."""
    return _installed


def install() -> None:
    """Redirect megatron-core to the CPU. Safe to call twice.

    Raises:
        ConfigError: a CUDA device is in use.
    """
    global _installed
    if not is_needed():
        raise ConfigError(
            "parallel.device=cpu is set in a process that already uses CUDA. Start it with "
            "CUDA_VISIBLE_DEVICES= (empty) to run on the CPU of a GPU machine."
        )
    if _installed:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TE and apex are optional, and need a GPU
        for name in _MODULES:
            importlib.import_module(name)
    stand_in = _cpu_torch()
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and getattr(module, "torch", None) is torch:
            module.torch = stand_in  # type: ignore[attr-defined]
    _redirect_random_state()
    _redirect_tensor_methods()
    _installed = True


def on_cpu(device: Any) -> Any:
    """Replace a CUDA device, in any spelling, by the CPU; return others unchanged."""
    if device is None:
        return None
    if isinstance(device, int):
        return _CPU
    return _CPU if torch.device(device).type == "cuda" else device


def _redirected(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a tensor factory so that device="cuda" makes a CPU tensor."""

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        if "device" in kwargs:
            kwargs["device"] = on_cpu(kwargs["device"])
        return factory(*args, **kwargs)

    return make


def _copy_of(module: types.ModuleType) -> types.ModuleType:
    """Copy a module, so that it can be changed without changing the original."""
    copy = types.ModuleType(module.__name__, module.__doc__)
    copy.__dict__.update(module.__dict__)
    copy.__getattr__ = lambda name: getattr(module, name)  # type: ignore[method-assign]
    return copy


def _cpu_torch() -> types.ModuleType:
    """Make the torch that megatron-core uses on a machine without CUDA."""
    stand_in = _copy_of(torch)
    for name in _FACTORIES:
        setattr(stand_in, name, _redirected(getattr(torch, name)))
    stand_in.cuda = _cpu_cuda()  # type: ignore[attr-defined]
    return stand_in


def _cpu_cuda() -> types.ModuleType:
    """Make a torch.cuda whose streams and events do nothing and whose memory is 0."""
    cuda = _copy_of(torch.cuda)
    replacements: dict[str, Any] = {
        "current_device": lambda: _CPU,
        "device_count": lambda: 1,  # the checkpoint writer computes rank % device_count()
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda device=None: 0,
        "manual_seed": torch.manual_seed,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "Stream": _Stream,
        "Event": _Event,
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": lambda device=None: _Stream(),
        "default_stream": lambda device=None: _Stream(),
        "nvtx": types.SimpleNamespace(range_push=lambda message: None, range_pop=lambda: None),
    }
    cuda.__dict__.update(replacements)
    return cuda


class _Stream:
    """The CPU's only stream: its work is already in order."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def synchronize(self) -> None: ...

    def record_event(self, event: Any = None) -> "_Event":
        return _Event()


class _Event:
    """An event on the CPU's only stream."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, stream: Any = None) -> None: ...

    def wait(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


def _redirect_random_state() -> None:
    """Let Megatron's random states, and so dropout and recompute, use the CPU's generator."""
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: (
        torch.get_rng_state()
    )
    random._set_cuda_rng_state = lambda new_state, device=-1, graph_safe=False: torch.set_rng_state(
        new_state
    )


def _redirect_tensor_methods() -> None:
    """Make Tensor.cuda() the identity, and Tensor.type() return the names that mcore compares."""
    plain_type = torch.Tensor.type

    @functools.wraps(plain_type)
    def type_as_on_cuda(tensor: torch.Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if dtype is None and tensor.dtype in _TYPE_NAMES:
            return _TYPE_NAMES[tensor.dtype]
        return plain_type(tensor, dtype, *args, **kwargs) if dtype else plain_type(tensor)

    torch.Tensor.type = type_as_on_cuda  # type: ignore[method-assign, assignment]
    torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor  # type: ignore[method-assign]
