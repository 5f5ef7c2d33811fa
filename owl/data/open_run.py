# SPDX-License-Identifier: Apache-2.0
"""From a run's settings to its loader and its global batch."""

from owl.config.run import BatchConfig, RunConfig
from owl.data.families import WORK, reading_of
from owl.data.loader import GatherFaults, Loader, ShareSkips, build_loader
from owl.data.plan.resume import kept_packs_per_step
from owl.data.plan.shares import count_shares, describe_shares, unlisted_shards
from owl.data.samples import Cursor
from owl.errors import ConfigError


def open_loader(
    run: RunConfig,
    *,
    dp_rank: int = 0,
    dp_size: int = 1,
    read_pixels: bool = True,
    share_skips: ShareSkips | None = None,
    gather_faults: GatherFaults | None = None,
) -> Loader:
    """Open a run's data as one data-parallel rank sees it.

    Args:
        run: its settings.
        dp_rank: whose share to load.
        dp_size: data-parallel ranks.
        read_pixels: only the rank that encodes pictures has to; see build_loader.
        share_skips: how ranks of one replica agree on damaged samples; see build_loader.
        gather_faults: how data-parallel ranks count them together; see build_loader.

    Raises:
        ConfigError: a folder or setting is missing; all problems at once.
        DataError: a shard is not the one that was indexed.
    """
    return build_loader(
        run.data,
        run.pack,
        reading=reading_of(run.model),
        micro_batch_size=run.batch.micro_batch_size,
        dp_rank=dp_rank,
        dp_size=dp_size,
        tile_cost=WORK[run.model.family].tile_cost(run.model, run.counted_parts),
        read_pixels=read_pixels,
        share_skips=share_skips,
        gather_faults=gather_faults,
    )


def check_vocabulary(run: RunConfig, loader: Loader) -> None:
    """Raise ConfigError when the tokenizer has ids without an embedding in the model."""
    rows = loader.tokenizer.vocab_size
    if rows > run.model.vocab_size:
        raise ConfigError(
            f"model.vocab_size={run.model.vocab_size} is too small for data.tokenizer="
            f"{run.data.tokenizer}, whose ids need {rows} rows. Use the tokenizer that belongs to "
            f"the model, or for a new model set model.vocab_size={rows}."
        )


def packs_per_step(batch: BatchConfig, *, mean_samples_per_pack: float, dp_size: int) -> int:
    """Decide the global batch in packs, over all ranks.

    Args:
        batch: `global_batch_size` if the user set it, else `samples_per_step`.
        mean_samples_per_pack: from the plan; 1 with packing off.
        dp_size: data-parallel ranks.

    Returns:
        A multiple of micro_batch_size * dp_size that holds about the wanted number of samples.
    """
    if batch.global_batch_size is not None:
        return batch.global_batch_size
    assert batch.samples_per_step is not None, "the config check asks for one of the two"
    unit = batch.micro_batch_size * dp_size
    return max(1, round(batch.samples_per_step / mean_samples_per_pack / unit)) * unit


def step_size(
    batch: BatchConfig, loader: Loader, *, dp_size: int, start: Cursor | None = None
) -> int:
    """Packs of a step of a run, from the plan of its data.

    Args:
        batch: its settings.
        loader: of any rank.
        dp_size: data-parallel ranks.
        start: where an earlier run of it stopped. A size that was chosen then, for the same
            samples_per_step, is kept if these ranks can share it; Loader.steps refuses another.
    """
    kept = kept_packs_per_step(start, chosen_for(batch), loader.fingerprint)
    if kept is not None and kept % (batch.micro_batch_size * dp_size) == 0:
        return kept
    return packs_per_step(
        batch, mean_samples_per_pack=loader.mean_samples_per_pack, dp_size=dp_size
    )


def chosen_for(batch: BatchConfig) -> int | None:
    """The samples for which the packs of a step are chosen; None when the user set the packs."""
    return batch.samples_per_step if batch.global_batch_size is None else None


def data_lines(run: RunConfig, loader: Loader, start: Cursor | None = None) -> list[str]:
    """What becomes of the samples of the window in which a run starts, and shards it does not use.

    Training reads that window first anyway, so this costs nothing.
    """
    epoch, number = (start.epoch, start.window) if start else (0, 0)
    shares = count_shares([loader.plan.window(epoch, number)])
    lines = [*describe_shares(shares, run), *unlisted_shards(loader.plan)]
    return [f"data, by {shares.samples:,} samples:", *(f"  {line}" for line in lines)]
