# SPDX-License-Identifier: Apache-2.0
"""Each redirection that lets the unmodified megatron-core run on a CPU."""

import sys

import pytest
import torch

from owl.errors import ConfigError
from owl.mcore import cpu

pytestmark = pytest.mark.skipif(not cpu.is_needed(), reason="the seam is for machines without CUDA")

CUDA_SPELLINGS = ["cuda", "cuda:1", torch.device("cuda"), torch.device("cuda", 0), 0]
A_TENSOR = torch.ones(2, 3)
FACTORY_ARGUMENTS = {
    "arange": (4,),
    "empty": (2,),
    "empty_like": (A_TENSOR,),
    "full": ((2,), 3.0),
    "full_like": (A_TENSOR, 3.0),
    "ones": (2,),
    "ones_like": (A_TENSOR,),
    "rand": (2,),
    "randn": (2,),
    "tensor": ([1.0, 2.0],),
    "zeros": (2,),
    "zeros_like": (A_TENSOR,),
}


@pytest.fixture(scope="module", autouse=True)
def installed():
    cpu.install()


@pytest.fixture
def mcore_torch():
    """The torch that megatron-core's modules see."""
    return sys.modules["megatron.core.tensor_parallel.random"].torch


@pytest.fixture
def kept_rng_state():
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.mark.parametrize("device", CUDA_SPELLINGS, ids=str)
@pytest.mark.parametrize("factory", FACTORY_ARGUMENTS)
def test_a_factory_asked_for_a_cuda_device_makes_a_cpu_tensor(mcore_torch, factory, device):
    made = getattr(mcore_torch, factory)(*FACTORY_ARGUMENTS[factory], device=device)

    assert made.device.type == "cpu"


def test_every_redirected_factory_is_tested():
    assert set(FACTORY_ARGUMENTS) == set(cpu._FACTORIES)


def test_a_factory_keeps_other_devices_and_arguments(mcore_torch):
    assert mcore_torch.zeros(2, device="meta").device.type == "meta"
    assert mcore_torch.zeros(2, device=None).device.type == "cpu"
    assert mcore_torch.full((2,), 3, dtype=torch.int8, device="cuda").dtype == torch.int8


@pytest.mark.parametrize("factory", FACTORY_ARGUMENTS)
def test_everyone_else_keeps_the_original_factory(mcore_torch, factory):
    assert getattr(mcore_torch, factory).__wrapped__ is getattr(torch, factory)
    assert not hasattr(getattr(torch, factory), "__wrapped__")


def test_everyone_else_keeps_the_original_cuda_namespace(mcore_torch):
    assert mcore_torch.cuda is not torch.cuda
    for name in ("current_device", "device_count", "synchronize", "Stream", "Event", "nvtx"):
        assert getattr(mcore_torch.cuda, name) is not getattr(torch.cuda, name)
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")


def test_what_is_not_redirected_is_the_original(mcore_torch):
    assert mcore_torch.float32 is torch.float32
    assert mcore_torch.nn is torch.nn
    assert mcore_torch.Tensor is torch.Tensor
    assert mcore_torch.cuda.is_available is torch.cuda.is_available


@pytest.mark.parametrize("name", cpu._MODULES)
def test_no_module_that_training_needs_keeps_the_plain_torch(name):
    # Packages may do without torch.
    assert getattr(sys.modules[name], "torch", None) is not torch


def test_the_current_device_is_the_cpu(mcore_torch):
    assert mcore_torch.cuda.current_device() == torch.device("cpu")
    assert torch.ones(2, device=mcore_torch.cuda.current_device()).device.type == "cpu"


def test_there_is_one_device_to_divide_ranks_by(mcore_torch):
    assert 5 % mcore_torch.cuda.device_count() == 0


def test_choosing_and_waiting_for_the_device_do_nothing(mcore_torch):
    assert mcore_torch.cuda.set_device(3) is None
    assert mcore_torch.cuda.synchronize() is None
    assert mcore_torch.cuda.synchronize("cuda:0") is None
    assert mcore_torch.cuda.empty_cache() is None


def test_no_cuda_memory_is_ever_allocated(mcore_torch):
    assert mcore_torch.cuda.memory_allocated() == 0
    assert mcore_torch.cuda.memory_allocated("cuda:0") == 0


@pytest.mark.usefixtures("kept_rng_state")
def test_seeding_cuda_seeds_the_cpu(mcore_torch):
    mcore_torch.cuda.manual_seed(7)
    first = torch.rand(3)
    torch.manual_seed(7)

    assert torch.equal(first, torch.rand(3))


@pytest.mark.usefixtures("kept_rng_state")
def test_cuda_rng_states_are_those_of_the_cpu(mcore_torch):
    state = mcore_torch.cuda.get_rng_state("cuda:0")
    first = torch.rand(3)
    mcore_torch.cuda.set_rng_state(state, "cuda:0")

    assert torch.equal(first, torch.rand(3))


@pytest.mark.usefixtures("kept_rng_state")
def test_megatron_reads_and_writes_the_cpu_generator():
    from megatron.core.tensor_parallel import random

    state = random._get_cuda_rng_state(clone=True)
    first = torch.rand(3)
    random._set_cuda_rng_state(state, device=0)

    assert torch.equal(first, torch.rand(3))


@pytest.mark.usefixtures("kept_rng_state")
def test_a_fork_of_megatrons_tracker_leaves_the_default_stream_alone():
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    tracker = CudaRNGStatesTracker()
    tracker.add("mine", 11)
    torch.manual_seed(3)
    with tracker.fork("mine"):
        forked = torch.rand(3)
    after = torch.rand(3)

    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(3))
    torch.manual_seed(11)
    assert torch.equal(forked, torch.rand(3))


def test_streams_are_in_order_already(mcore_torch):
    stream = mcore_torch.cuda.Stream(device="cuda", priority=-1)

    assert stream.wait_stream(mcore_torch.cuda.default_stream()) is None
    assert stream.wait_event(mcore_torch.cuda.Event()) is None
    assert stream.synchronize() is None
    assert stream.record_event().query()
    assert isinstance(mcore_torch.cuda.current_stream("cuda:0"), mcore_torch.cuda.Stream)


def test_work_on_a_stream_runs_right_there(mcore_torch):
    with mcore_torch.cuda.stream(mcore_torch.cuda.Stream()):
        result = torch.ones(2) + 1

    assert result.tolist() == [2, 2]


def test_events_have_always_happened(mcore_torch):
    event = mcore_torch.cuda.Event(enable_timing=False)
    event.record()
    event.record(mcore_torch.cuda.current_stream())
    event.wait()
    event.synchronize()

    assert event.query()


def test_profiler_ranges_do_nothing(mcore_torch):
    mcore_torch.cuda.nvtx.range_push("forward")
    mcore_torch.cuda.nvtx.range_pop()


def test_moving_a_tensor_to_cuda_keeps_it():
    tensor = torch.ones(2)

    assert tensor.cuda() is tensor
    assert tensor.cuda(0, non_blocking=True) is tensor


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float64, "torch.cuda.FloatTensor"),
        (torch.float32, "torch.cuda.FloatTensor"),
        (torch.float16, "torch.cuda.HalfTensor"),
        (torch.bfloat16, "torch.cuda.BFloat16Tensor"),
        (torch.int64, "torch.LongTensor"),
    ],
)
def test_the_type_of_a_tensor_has_the_name_that_megatron_accepts(dtype, name):
    assert torch.ones(2, dtype=dtype).type() == name


def test_converting_by_type_still_converts():
    assert torch.ones(2).type(torch.int32).dtype == torch.int32
    assert torch.ones(2).type("torch.DoubleTensor").dtype == torch.float64


def test_installing_twice_changes_nothing(mcore_torch):
    before = mcore_torch.zeros, torch.Tensor.type, torch.Tensor.cuda

    cpu.install()

    now = sys.modules["megatron.core.tensor_parallel.random"].torch
    assert now is mcore_torch
    assert before == (now.zeros, torch.Tensor.type, torch.Tensor.cuda)
    assert cpu.is_installed()


def test_it_refuses_to_hide_a_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES="):
        cpu.install()
