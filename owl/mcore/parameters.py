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
    """Remove Megatron's data-parallel wrapper from a model chunk."""
    while isinstance(inner := getattr(chunk, "module", None), nn.Module):
        chunk = inner
    return chunk


def shard_of(full: Tensor, parameter: nn.Parameter, *, tp_rank: int, tp_size: int) -> Tensor:
    """Return this rank's shard of a full tensor.

    Args:
        full: as an unsplit model holds it; may lack the padding rows of the vocabulary.
        parameter: of this rank; Megatron's layers mark how it is sharded.
        tp_rank: this rank in the tensor group.
        tp_size: ranks in the tensor group.
    """
    if not getattr(parameter, "tensor_model_parallel", False):
        return full
    dim, stride = parameter.partition_dim, parameter.partition_stride
    missing = parameter.shape[dim] * tp_size - full.shape[dim]
    if 0 < missing < tp_size:  # vocabulary padding
        full = nn.functional.pad(full, [0, 0] * (full.ndim - dim - 1) + [0, missing])
    pieces = [block.chunk(tp_size, dim)[tp_rank] for block in full.chunk(stride, dim)]
    return torch.cat(pieces, dim)


def merge_shards(shards: Sequence[Tensor], parameter: nn.Parameter) -> Tensor:
    """Join the shards of all ranks of a tensor group to the full tensor, with vocabulary padding.

    Args:
        shards: in the order of the group's ranks.
        parameter: of any of them.
    """
    if not getattr(parameter, "tensor_model_parallel", False):
        return shards[0]
    dim, stride = parameter.partition_dim, parameter.partition_stride
    blocks = zip(*(shard.chunk(stride, dim) for shard in shards), strict=True)
    return torch.cat([torch.cat(block, dim) for block in blocks], dim)


def gather_full(shard: Tensor, parameter: nn.Parameter, tp_group: dist.ProcessGroup) -> Tensor:
    """Gather a tensor shaped like a parameter, such as its gradient, from the tensor group."""
    shards = [torch.empty_like(shard) for _ in range(tp_group.size())]
    dist.all_gather(shards, shard.contiguous(), group=tp_group)
    return merge_shards(shards, parameter)


def load_full(chunks: Sequence[nn.Module], weights: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Copy this rank's shards of full tensors into the parameters they name.

    Returns:
        Names of this rank's parameters that no weight was given for.

    Raises:
        ValueError: a shard does not have its parameter's shape.
    """
    remaining = dict(global_names(chunks))
    collection: Any = unwrapped(chunks[0]).pg_collection
    tp_rank, tp_size = collection.tp.rank(), collection.tp.size()
    for name, full in weights:
        parameter = remaining.pop(name, None)
        if parameter is None:
            continue
        shard = shard_of(full, parameter, tp_rank=tp_rank, tp_size=tp_size)
        if shard.shape != parameter.shape:
            raise ValueError(
                f"{name}: the weight is {tuple(full.shape)}, which gives this rank "
                f"{tuple(shard.shape)}, but the model holds {tuple(parameter.shape)}"
            )
        with torch.no_grad():
            parameter.copy_(shard)
    return list(remaining)


def _global_name(name: str, first_layer: int) -> str:
    prefix = "decoder.layers."
    if not name.startswith(prefix):
        return name
    index, rest = name.removeprefix(prefix).split(".", 1)
    return f"{prefix}{int(index) + first_layer}.{rest}"
