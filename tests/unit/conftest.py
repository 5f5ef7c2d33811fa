# SPDX-License-Identifier: Apache-2.0
"""What unit tests share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from owl.mcore.process_groups import ProcessGroups

# A busy machine is not a failure; the same examples each time, so that a red run can be had again.
settings.register_profile("owl", deadline=None, derandomize=True)
settings.load_profile("owl")


@pytest.fixture(scope="module")
def alone() -> Iterator["ProcessGroups"]:
    """A job of one process on the CPU, for the tests of one file.

    A process can be in one job at a time: a file that asks for this must not call what starts its
    own (owl.convert.init, owl.train.run).
    """
    # Imported here: megatron-core takes seconds, and most unit tests do without it.
    from owl.config.run import DeviceKind, ParallelConfig
    from owl.mcore.process_groups import process_groups

    with process_groups(ParallelConfig(device=DeviceKind.cpu), alone=True) as groups:
        yield groups
