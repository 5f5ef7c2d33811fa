# SPDX-License-Identifier: Apache-2.0
"""What the process of one rehearsed rank does. Imports torch late: `cuda` has to be there first."""

import warnings
from collections import Counter
from typing import TYPE_CHECKING

from owl.config.run import RunConfig
from owl.rehearse.fake_device import pretend_cuda
from owl.rehearse.machine import Machine

if TYPE_CHECKING:
    from owl.rehearse.figures import Figures


def rehearse(run: RunConfig, machine: Machine, rank: int, ranks: int) -> tuple["Figures", str]:
    """Rehearse a rank; return its figures and where its packs are from."""
    pretend_cuda(machine.gpus_per_node, machine.name, machine.memory_bytes)
    warnings.simplefilter("ignore")

    from owl.data.families import WORK
    from owl.rehearse.compare import first_difference
    from owl.rehearse.estimate import StepSize, estimate
    from owl.rehearse.figures import figures
    from owl.rehearse.packs import micro_batches_of, text_only
    from owl.rehearse.rank import rehearse_rank

    packs, in_step, mix = micro_batches_of(run, ranks)
    flops: Counter[str] = Counter()
    for pack in packs:
        flops.update(WORK[run.model.family].batch_flops(pack, run.model, run.counted_parts))
    record = rehearse_rank(run, packs, rank=rank, ranks=ranks)
    size = StepSize(
        ranks=ranks,
        rehearsed=len(packs),
        in_step=in_step,
        flops=flops,
        text_tokens=sum(pack.num_tokens for pack in packs),
        tiles=sum(pack.num_tiles for pack in packs),
    )
    outcome = estimate(record, run, machine, size)
    hang = None
    neighbour = rank + run.parallel.tensor
    if run.rehearse.compare and run.parallel.pipeline * neighbour < ranks:
        other = rehearse_rank(run, [text_only(pack) for pack in packs], rank=neighbour, ranks=ranks)
        hang = first_difference(record.log, other.log, (rank, neighbour))
    return figures(record, outcome, run, size, rank=rank, hang=hang), str(mix)
