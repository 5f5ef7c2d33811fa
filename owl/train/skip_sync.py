# SPDX-License-Identifier: Apache-2.0
"""Agree on what was skipped: pipeline stages before a step, data-parallel ranks to count it."""

import torch
import torch.distributed as dist

from owl.data.microbatch import Fault, Skipped
from owl.mcore.process_groups import ProcessGroups


def broadcast_skips(skipped: list[Skipped], groups: ProcessGroups) -> list[Skipped]:
    """Send what the first pipeline stage skipped in this step to all stages, which all call this.

    Only the stage that decodes a picture finds it damaged. A later stage that kept its sample
    would compute other rows than the first one sends.

    Args:
        skipped: one entry for each micro-batch; read on the first stage only.
        groups: Megatron's process groups.

    Returns:
        The first stage's list.
    """
    received: list[list[Skipped]] = [skipped]
    dist.broadcast_object_list(received, group=groups.collection.pp, group_src=0)
    return received[0]


def gather_faults(faults: list[Fault], groups: ProcessGroups) -> list[Fault]:
    """Join what all data-parallel ranks skipped in this step; all of them call this.

    Skips are rare, so as a rule only their number is communicated.
    """
    count = torch.tensor([len(faults)], device=groups.device)
    dist.all_reduce(count, group=groups.collection.dp)
    if not count.item():
        return []
    of_ranks: list[list[Fault]] = [[] for _ in range(groups.dp_size)]
    dist.all_gather_object(of_ranks, faults, group=groups.collection.dp)
    return [fault for rank in of_ranks for fault in rank]
