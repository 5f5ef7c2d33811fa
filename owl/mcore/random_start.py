# SPDX-License-Identifier: Apache-2.0
"""Random weights that do not depend on the layout: full tensors, seeded by name, then sharded.

Megatron draws each rank's shard where it is built, so that the weights depend on the degrees and on
the order of modules. Here building only marks each parameter with its standard deviation.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from owl.mcore.parameters import VOCABULARY_TABLES, global_names, shard_of, unwrapped

_MARK = "random_start_std"


class RandomStart:
    """An init method for Megatron's configs that marks a parameter instead of drawing it."""

    def __init__(self, std: float) -> None:
        self.std = std

    def __call__(self, parameter: Tensor) -> Tensor:
        """Mark a parameter to be drawn from a normal distribution around 0."""
        setattr(parameter, _MARK, self.std)
        return parameter


@torch.no_grad()
def draw_random_start(chunks: Sequence[nn.Module], *, seed: int, vocab_size: int) -> None:
    """Draw every marked parameter; the same seed gives the same model in every layout.

    Args:
        chunks: this rank's model chunks, on their device.
        seed: of the run.
        vocab_size: rows of the embedding before it is padded for the tensor group.
    """
    collection: Any = unwrapped(chunks[0]).pg_collection
    tp_rank, tp_size = collection.tp.rank(), collection.tp.size()
    tied = unwrapped(chunks[0]).share_embeddings_and_output_weights
    embedding, head = VOCABULARY_TABLES
    for name, parameter in global_names(chunks):
        std = getattr(parameter, _MARK, None)
        if std is None:
            continue
        # The last stage's copy of a tied table is the first stage's.
        drawn_as = embedding if tied and name == head else name
        generator = torch.Generator(parameter.device).manual_seed(_seed_of(drawn_as, seed))
        shape = _full_shape(parameter, tp_size)
        if name in VOCABULARY_TABLES:
            shape[0] = vocab_size
        full = torch.randn(shape, generator=generator, device=parameter.device).mul_(std)
        parameter.copy_(shard_of(full, parameter, tp_rank=tp_rank, tp_size=tp_size))


def _full_shape(parameter: nn.Parameter, tp_size: int) -> list[int]:
    shape = list(parameter.shape)
    if getattr(parameter, "tensor_model_parallel", False):
        shape[parameter.partition_dim] *= tp_size
    return shape


def _seed_of(name: str, seed: int) -> int:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:7], "big")  # a generator takes less than 64 bits
