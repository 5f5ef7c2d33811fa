# SPDX-License-Identifier: Apache-2.0
"""Random states for dropout that depend on where training is, and on nothing that came before.

So a resumed run drops what the uninterrupted one drops; the states in a checkpoint are those of the
first data-parallel rank, and lack a GPU's default one. All ranks of a tensor group share the
default state: a module that each of them holds completely drops the same everywhere. Megatron's own
state (`get_cuda_rng_tracker().fork()`) differs from rank to rank, for what is sharded.
"""

import hashlib

from megatron.core import tensor_parallel

from owl.mcore.process_groups import ProcessGroups


def seed_dropout(groups: ProcessGroups, packs_consumed: int) -> None:
    """Set this rank's random states at the start of a step.

    Args:
        groups: the run's seed, and this rank's place in the layout. Data-parallel ranks and
            pipeline stages get states of their own.
        packs_consumed: of the data, when the step is done.
    """
    place = f"{groups.seed} {packs_consumed} {groups.dp_rank} {groups.collection.pp.rank()}"
    seed = int.from_bytes(hashlib.sha256(place.encode()).digest()[:4], "big")
    tensor_parallel.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
