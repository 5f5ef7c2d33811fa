# SPDX-License-Identifier: Apache-2.0
"""All pipeline stages of a replica hold the same rows, though only the first reads pictures.

And all data-parallel ranks know what any of them skipped.
"""

from functools import partial

import torch
import torch.distributed as dist

from owl.data.loader import GatherFaults, ShareSkips
from owl.data.microbatch import Fault, Skipped
from owl.mcore.process_groups import ProcessGroups


def skip_sharing(groups: ProcessGroups) -> ShareSkips | None:
    """How this rank hears of damaged pictures; None where every rank decodes them itself."""
    return partial(skips_of_first_stage, groups=groups) if groups.pp_size > 1 else None


def skips_of_first_stage(skipped: list[Skipped], groups: ProcessGroups) -> list[Skipped]:
    """What the first stage skipped from each micro-batch of this step; called by all stages.

    A damaged picture is only found where it is decoded. A later stage that kept its sample would
    compute other rows than the first one sends.
    """
    told: list[list[Skipped]] = [skipped]
    dist.broadcast_object_list(told, group=groups.collection.pp, group_src=0)
    return told[0]


def fault_gathering(groups: ProcessGroups) -> GatherFaults | None:
    """How this rank hears of what other replicas skipped; None where there are none."""
    return partial(faults_of_all_replicas, groups=groups) if groups.dp_size > 1 else None


def faults_of_all_replicas(faults: list[Fault], groups: ProcessGroups) -> list[Fault]:
    """What all data-parallel ranks skipped in this step; called by all of them.

    They are rare, so only their number travels as a rule.
    """
    count = torch.tensor([len(faults)], device=groups.device)
    dist.all_reduce(count, group=groups.collection.dp)
    if not count.item():
        return []
    everyone: list[list[Fault]] = [[] for _ in range(groups.dp_size)]
    dist.all_gather_object(everyone, faults, group=groups.collection.dp)
    return [fault for rank in everyone for fault in rank]
