# SPDX-License-Identifier: Apache-2.0
"""Make `cuda` a device that computes nothing: fake tensors have shapes and no content.

Call pretend_cuda before anything else imports torch's CUDA parts. A torch built for CPUs also needs
guard.cpp, which is compiled once and kept.
"""

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from owl.errors import ConfigError

_LIBRARIES = ("libc10.so", "libtorch_cpu.so")


def pretend_cuda(gpus_per_node: int, name: str, memory_bytes: int) -> None:
    """Let torch believe that this machine has CUDA devices. There is no way back.

    Args:
        gpus_per_node: number of devices.
        name: that torch.cuda reports.
        memory_bytes: of each device.

    Raises:
        ConfigError: torch is loaded already, or a CPU build of it finds no compiler.
    """
    if "torch" in sys.modules:
        raise ConfigError("the rehearsal has to run in a process that has not imported torch yet")
    _load_guard()
    import torch

    for attribute, value in _replacements(torch, gpus_per_node, name, memory_bytes).items():
        setattr(torch.cuda, attribute, value)


def _load_guard() -> None:
    """Load the guard into this process, ahead of torch; a CUDA build has one of its own."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent
    if (folder / "lib" / "libtorch_cuda.so").is_file():
        return
    library = _compiled_guard(folder)
    for part in ("libtorch_global_deps.so", *_LIBRARIES):
        ctypes.CDLL(str(folder / "lib" / part), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _compiled_guard(torch_folder: Path) -> Path:
    """Compile guard.cpp for this torch, unless that has been done before."""
    source = Path(__file__).with_name("guard.cpp")
    version = (torch_folder / "version.py").read_bytes()
    name = hashlib.sha256(source.read_bytes() + version).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "owl"
    library = cache / f"guard-{name}.so"
    if library.is_file():
        return library
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise ConfigError(
            "a rehearsal with a CPU build of torch compiles 60 lines of C++, and finds neither g++ "
            "nor clang++. Install one (such as apt install g++), or use a CUDA build of torch."
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        built = Path(folder) / "guard.so"
        include = torch_folder / "include"
        command = [
            *(compiler, "-std=c++20", "-O0", "-shared", "-fPIC", str(source), "-o", str(built)),
            *(f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"),
            *(f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"{compiler} could not compile {source}:\n{done.stderr[-2000:]}")
        built.replace(library)
    return library


class Waits:
    """Counts calls in which the host waits for a device, outside of tensor operations."""

    on_wait: Callable[[str], None] = staticmethod(lambda what: None)


class _Stream:
    """The only stream."""

    cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def synchronize(self) -> None:
        Waits.on_wait("Stream.synchronize")

    def record_event(self, event: Any = None) -> "_Event":
        return _Event()

    def query(self) -> bool:
        return True


class _Event:
    """An event that has always happened."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, stream: Any = None) -> None: ...

    def wait(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None:
        Waits.on_wait("Event.synchronize")

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 1.0


def _replacements(torch: Any, devices: int, name: str, memory_bytes: int) -> dict[str, Any]:
    """Members of torch.cuda that would otherwise ask a driver."""
    properties = types.SimpleNamespace(
        name=name, major=9, minor=0, multi_processor_count=132, total_memory=memory_bytes
    )
    return {
        "is_available": lambda: True,
        "device_count": lambda: devices,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: Waits.on_wait("torch.cuda.synchronize"),
        "empty_cache": lambda: None,
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "Stream": _Stream,
        "Event": _Event,
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": lambda device=None: _Stream(),
        "default_stream": lambda device=None: _Stream(),
        "get_device_name": lambda device=None: name,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: properties,
        "is_current_stream_capturing": lambda: False,
        "is_bf16_supported": lambda *_, **__: True,
        "_lazy_init": lambda: None,
        "nvtx": types.SimpleNamespace(range_push=lambda text: None, range_pop=lambda: None),
    }
