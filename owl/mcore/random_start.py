# SPDX-License-Identifier: Apache-2.0
"""Random weights that do not depend on the layout: full tensors, seeded by name, then sharded.

Megatron draws each rank's shard where it is built, so that the weights depend on the degrees and on
the order of modules. Here building only marks each parameter with its standard deviation.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from owl.mcore.parameters import VOCABULARY_TABLES, global_names, shard_of, unwrapped
from owl.model.lora import is_adapter

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
        generator = _generator(drawn_as, seed, parameter)
        shape = _full_shape(parameter, tp_size)
        if name in VOCABULARY_TABLES:
            shape[0] = vocab_size
        full = torch.randn(shape, generator=generator, device=parameter.device).mul_(std)
        parameter.copy_(shard_of(full, parameter, tp_rank=tp_rank, tp_size=tp_size))


@torch.no_grad()
def draw_adapters(chunks: Sequence[nn.Module], *, seed: int) -> None:
    """Draw each adapter's A as PEFT does, Kaiming-uniform; the same in every layout.

    B is zero, so that an adapter adds nothing at first.
    """
    collection: Any = unwrapped(chunks[0]).pg_collection
    tp_rank, tp_size = collection.tp.rank(), collection.tp.size()
    for name, parameter in global_names(chunks):
        if not (is_adapter(name) and name.endswith("_a")):
            continue
        generator = _generator(name, seed, parameter)
        full = torch.empty(_full_shape(parameter, tp_size), device=parameter.device)
        nn.init.kaiming_uniform_(full, a=math.sqrt(5), generator=generator)
        parameter.copy_(shard_of(full, parameter, tp_rank=tp_rank, tp_size=tp_size))


def _full_shape(parameter: nn.Parameter, tp_size: int) -> list[int]:
    shape = list(parameter.shape)
    if getattr(parameter, "tensor_model_parallel", False):
        shape[parameter.partition_dim] *= tp_size
    return shape


def _generator(name: str, seed: int, parameter: nn.Parameter) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    number = int.from_bytes(digest[:7], "big")  # a generator takes less than 64 bits
    return torch.Generator(parameter.device).manual_seed(number)
