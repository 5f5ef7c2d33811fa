# SPDX-License-Identifier: Apache-2.0
"""All pipeline stages of a replica hold the same rows, though only the first reads pictures."""

from functools import partial

import torch.distributed as dist

from owl.data.loader import ShareSkips
from owl.data.microbatch import Skipped
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
