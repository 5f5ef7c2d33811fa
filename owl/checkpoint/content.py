# SPDX-License-Identifier: Apache-2.0
"""The content of a checkpoint as dist_checkpointing describes it, for saving and for loading."""

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.dist_checkpointing.mapping import ShardedObject
from torch import nn

from owl.mcore.parameters import unwrapped
from owl.mcore.process_groups import ProcessGroups

# megatron-core's default sharding of the distributed optimizer raises in 0.16.1; this one stores
# each state as a tensor shaped like its parameter, so that any layout can load it.
OPTIMIZER_SHARDING = {"distrib_optim_sharding_type": "fully_reshardable"}
EXTRA_STATE = "_extra_state"
"""Suffix of torch's names for what a layer stores in addition to its weights."""


def weight_shards(chunks: Sequence[nn.Module], groups: ProcessGroups) -> dict[str, Any]:
    """Describe this rank's weights, chunk by chunk: local names repeat, sharded keys do not.

    Leaves out what layers store in addition: it is empty except for 8-bit formats, which are not
    supported here, and would tie a checkpoint to the layers of one backend.
    """
    metadata = {"dp_cp_group": groups.collection.dp_cp}
    return {
        f"model{index}": {
            name: shard
            for name, shard in unwrapped(chunk).sharded_state_dict(metadata=metadata).items()
            if not name.endswith(EXTRA_STATE)
        }
        for index, chunk in enumerate(chunks)
    }


def random_states(groups: ProcessGroups) -> ShardedObject:
    """Describe this rank's random states, which belong to its place in the layout."""
    states = {
        "torch": torch.get_rng_state(),
        "tracker": tensor_parallel.get_cuda_rng_tracker().get_states(),
    }
    place = (groups.collection.pp.rank(), groups.collection.tp.rank())
    return ShardedObject(
        "random_states",
        states,
        (groups.pp_size, groups.tp_size),
        place,
        replica_id=groups.dp_rank,
    )


def restore_random_states(states: dict[str, Any]) -> None:
    """Set this rank's random states to loaded ones."""
    torch.set_rng_state(states["torch"])
    tensor_parallel.get_cuda_rng_tracker().set_states(states["tracker"])
