# SPDX-License-Identifier: Apache-2.0
"""What tests on a GPU share. Run them with `pytest -m gpu tests/gpu`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from owl.mcore.process_groups import ProcessGroups


@pytest.fixture(autouse=True, scope="session")
def _needs_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"no CUDA device, or torch {torch.__version__} was built without CUDA")


@pytest.fixture(scope="module")
def alone() -> Iterator["ProcessGroups"]:
    """A job of one process on the GPU, for the tests of one file."""
    from owl.config.run import DeviceKind, ParallelConfig
    from owl.mcore.process_groups import process_groups

    with process_groups(ParallelConfig(device=DeviceKind.cuda), alone=True) as groups:
        yield groups
