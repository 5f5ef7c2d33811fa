# SPDX-License-Identifier: Apache-2.0
"""Parameters by their global names; full tensors cut to a rank's shard, and gathered again."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor, nn

VOCABULARY_TABLES = ("embedding.word_embeddings.weight", "output_layer.weight")
"""Their rows are padded for the tensor group; tied, the second is a copy of the first."""


def global_names(chunks: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield this rank's parameters under the names they have in an unsplit model.

    Pipeline stages count their decoder layers from 0; here they are counted through all stages.
    """
    for chunk in chunks:
        model = unwrapped(chunk)
        pp_rank = model.pg_collection.pp.rank()
        first = get_transformer_layer_offset(model.config, model.vp_stage, pp_rank)
        for name, parameter in model.named_parameters():
            yield _global_name(name, first), parameter


def unwrapped(chunk: nn.Module) -> nn.Module:
    """Take Megatron's data-parallel wrapper off a model chunk."""
    while isinstance(inner := getattr(chunk, "module", None), nn.Module):
        chunk = inner
    return chunk


def shard_of(whole: Tensor, parameter: nn.Parameter, *, tp_rank: int, tp_size: int) -> Tensor:
    """Return this rank's shard of a full tensor.

    Args:
        full: as an unsplit model holds it; may lack the padding rows of the vocabulary.
        parameter: of this rank; Megatron's layers mark how it is sharded.
        tp_rank: this rank in the tensor group.
        tp_size: ranks in the tensor group.
    """
    if not getattr(parameter, "tensor_model_parallel", False):
        return whole
    dim, stride = parameter.partition_dim, parameter.partition_stride
    missing = parameter.shape[dim] * tp_size - whole.shape[dim]
    if 0 < missing < tp_size:  # vocabulary padding
        whole = nn.functional.pad(whole, [0, 0] * (whole.ndim - dim - 1) + [0, missing])
    pieces = [block.chunk(tp_size, dim)[tp_rank] for block in whole.chunk(stride, dim)]
    return torch.cat(pieces, dim)


def whole_of(shares: Sequence[Tensor], parameter: nn.Parameter) -> Tensor:
    """Put the shares of all ranks of a tensor group together again (vocabulary padding stays)."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return shares[0]
    dim, stride = parameter.partition_dim, parameter.partition_stride
    blocks = zip(*(share.chunk(stride, dim) for share in shares), strict=True)
    return torch.cat([torch.cat(block, dim) for block in blocks], dim)


def gather_whole(share: Tensor, parameter: nn.Parameter, tp_group: dist.ProcessGroup) -> Tensor:
    """Collect a tensor shaped like a parameter (its gradient, say) from the tensor group."""
    shares = [torch.empty_like(share) for _ in range(tp_group.size())]
    dist.all_gather(shares, share.contiguous(), group=tp_group)
    return whole_of(shares, parameter)


def load_whole(chunks: Sequence[nn.Module], weights: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Copy whole tensors into this rank's shares of the parameters they name.

    Returns:
        Names of this rank's parameters that no weight was given for.
    """
    mine = dict(global_names(chunks))
    collection: Any = unwrapped(chunks[0]).pg_collection
    tp_rank, tp_size = collection.tp.rank(), collection.tp.size()
    for name, whole in weights:
        parameter = mine.pop(name, None)
        if parameter is None:
            continue
        share = shard_of(whole, parameter, tp_rank=tp_rank, tp_size=tp_size)
        if share.shape != parameter.shape:
            raise ValueError(
                f"{name}: the weight is {tuple(whole.shape)}, which gives this rank "
                f"{tuple(share.shape)}, but the model holds {tuple(parameter.shape)}"
            )
        with torch.no_grad():
            parameter.copy_(share)
    return list(mine)


def _global_name(name: str, first_layer: int) -> str:
    prefix = "decoder.layers."
    if not name.startswith(prefix):
        return name
    index, rest = name.removeprefix(prefix).split(".", 1)
    return f"{prefix}{int(index) + first_layer}.{rest}"
