# SPDX-License-Identifier: Apache-2.0
"""The model provider: this rank's part of Owl3, built, frozen and wrapped for training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from torch import nn

from owl.config.run import ModelConfig, ParallelConfig, Precision, Trainable, VisionParallelism
from owl.mcore.process_groups import ProcessGroups
from owl.mcore.random_start import draw_random_start
from owl.mcore.transformer_config import (
    DTYPES,
    decoder_config,
    padded_vocab_size,
    tower_config,
)
from owl.model.freeze import freeze
from owl.model.vision_language import VisionLanguageModel

ModelProvider = Callable[[bool, bool, int | None], VisionLanguageModel]


def model_provider(
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: Precision,
    groups: ProcessGroups,
    *,
    initialise: bool = True,
) -> ModelProvider:
    """Make Megatron's kind of provider: (pre_process, post_process, vp_stage) to a stage's model.

    Weights are marked to be drawn; `initialise` off leaves them as the meta device has them.
    """
    config = decoder_config(model, parallel, precision)
    vision = tower_config(model, parallel, precision)
    for each in (config, vision):
        each.perform_initialization = initialise
        # Megatron's CPU initialiser draws into a copy, which cannot be marked.
        each.use_cpu_initialization = not initialise

    tower_groups = copy(groups.collection)
    if model.vision_tower.parallelism is VisionParallelism.image:
        tower_groups.tp = groups.solo

    def provide(
        pre_process: bool, post_process: bool, vp_stage: int | None = None
    ) -> VisionLanguageModel:
        return VisionLanguageModel(
            config,
            vision,
            model,
            padded_vocab_size=padded_vocab_size(model.vocab_size, parallel.tensor),
            pg_collection=groups.collection,
            tower_pg_collection=tower_groups,
            pre_process=pre_process,
            post_process=post_process,
            vp_stage=vp_stage,
        )

    return provide


def build_model(
    model: ModelConfig, parallel: ParallelConfig, precision: Precision, groups: ProcessGroups
) -> list[nn.Module]:
    """Build this rank's model chunks, on its device, without a data-parallel wrapper.

    The weights are random and, for a given seed, the same in every layout.
    """
    provide = model_provider(model, parallel, precision, groups)
    count = parallel.virtual_pipeline
    chunks: list[nn.Module] = [
        provide(
            groups.is_first_stage and index == 0,
            groups.is_last_stage and index == count - 1,
            index if count > 1 else None,
        ).to(device=groups.device, dtype=DTYPES[precision])
        for index in range(count)
    ]
    draw_random_start(chunks, seed=groups.seed, vocab_size=model.vocab_size)
    return chunks


def wrap_for_training(
    chunks: list[nn.Module],
    trainable: Trainable,
    parallel: ParallelConfig,
    *,
    precision: Precision,
    distributed_optimizer: bool,
    bucket_size: int | None = None,
) -> list[nn.Module]:
    """Freeze what does not learn, then wrap in Megatron's data parallelism.

    The order matters: the wrapper makes gradient buffers for what requires a gradient.

    Args:
        chunks: this rank's model.
        trainable: what learns.
        parallel: what overlaps.
        precision: of the weights.
        distributed_optimizer: whether each rank needs its share of the gradients only.
        bucket_size: parameters whose gradients are reduced together; None for Megatron's choice.
    """
    settings = DistributedDataParallelConfig(
        # Float64 gradients would lose their point in float32 buffers.
        grad_reduce_in_fp32=precision is not Precision.fp64,
        use_distributed_optimizer=distributed_optimizer,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        bucket_size=bucket_size,
    )
    for chunk in chunks:
        freeze(chunk, trainable)
    return [
        DistributedDataParallel(config=chunk.config, ddp_config=settings, module=chunk)
        for chunk in chunks
    ]


@contextmanager
def synchronized_weights(chunks: list[nn.Module]) -> Iterator[None]:
    """Finish what `overlap_param_gather` still has under way, so that weights can be read."""
    waiting = [chunk for chunk in chunks if chunk.ddp_config.overlap_param_gather]
    for chunk in waiting:
        chunk.disable_forward_pre_hook(param_sync=True)
    try:
        yield
    finally:
        for chunk in waiting:
            chunk.enable_forward_pre_hook()
