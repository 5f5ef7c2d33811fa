# SPDX-License-Identifier: Apache-2.0
"""Rows over a tensor group: between its linear layers each rank keeps only its share of the rows.

Text rows and image rows are both shared out this way (`parallel.sequence`), so a norm sees only
this rank's rows, of text and of images alike, and its gradient is the sum over the group.
"""

from dataclasses import replace

import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel import scatter_to_sequence_parallel_region
from torch import Tensor

from owl.data.samples import IGNORE_INDEX, PackedBatch

PADDING_KEY = "(padding)"


def pad_rows(rows: Tensor, multiple: int) -> Tensor:
    """Add zero rows to [n, ..] up to a multiple, at least one of it: no rank is left without."""
    missing = max(multiple, -(-len(rows) // multiple) * multiple) - len(rows)
    return F.pad(rows, [0, 0] * (rows.ndim - 1) + [0, missing])


def pad_batch(batch: PackedBatch, multiple: int) -> PackedBatch:
    """Fill a pack up to a multiple of rows with one more sample, that nothing is learned from.

    The padding is a sample of its own, so no other sample sees it.
    """
    missing = -batch.num_tokens % multiple
    if not missing:
        return batch
    fill = batch.tokens.new_zeros(missing)
    return replace(
        batch,
        tokens=F.pad(batch.tokens, (0, missing)),
        labels=F.pad(batch.labels, (0, missing), value=IGNORE_INDEX),
        loss_weights=F.pad(batch.loss_weights, (0, missing)),
        position_ids=F.pad(batch.position_ids, (0, missing)),
        cu_seqlens=F.pad(batch.cu_seqlens, (0, 1), value=batch.num_tokens + missing),
        cu_media=F.pad(batch.cu_media, (0, 1), value=batch.num_tiles),
        seqlens=(*batch.seqlens, len(fill)),
        media_offset=[*batch.media_offset, []],
        keys=(*batch.keys, PADDING_KEY),
    )


def share_rows(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Keep this rank's share of rows that every rank holds; the gradient is gathered."""
    return scatter_to_sequence_parallel_region(pad_rows(rows, group.size()), group=group)
