# SPDX-License-Identifier: Apache-2.0
"""Held-out samples: the same packs each time, whatever the layout."""

from collections.abc import Iterator
from dataclasses import replace

from owl.config.run import RunConfig
from owl.data.families import reading_of
from owl.data.loader import Loader, ShareSkips
from owl.data.microbatch import MicrobatchReader
from owl.data.plan.plan import Pack, Plan
from owl.data.samples import PackedBatch
from owl.data.sources import open_sources


class HeldOut:
    """One source's held-out packs, shared out over data-parallel ranks.

    Args:
        loader: of this source alone.
        samples: to use, about: packs are taken until they hold as many.
        dp_rank: whose share to load.
        dp_size: data-parallel ranks.
    """

    def __init__(self, loader: Loader, samples: int, *, dp_rank: int, dp_size: int) -> None:
        self._loader, self._dp_rank, self._dp_size = loader, dp_rank, dp_size
        self.packs = list(_first_packs(loader.plan, samples))

    @property
    def samples(self) -> int:
        """Samples in the packs."""
        return sum(map(len, self.packs))

    def rounds(self, microbatches: int) -> Iterator[list[PackedBatch]]:
        """Yield so many micro-batches of a pack at a time, as often on every rank.

        Where packs run out, a micro-batch is one token that teaches nothing.
        """
        each = self._dp_size * microbatches
        for first in range(0, len(self.packs), each):
            mine = self.packs[first + self._dp_rank : first + each : self._dp_size]
            filled = [(pack,) for pack in mine] + [()] * (microbatches - len(mine))
            yield self._loader.load(filled)


def open_held_out(
    run: RunConfig, *, dp_rank: int, dp_size: int, read_pixels: bool, share_skips: ShareSkips | None
) -> dict[str, HeldOut]:
    """Open a run's held-out data: evaluate.sources, and the held-out shares of data.sources.

    Args:
        run: its settings.
        dp_rank: whose share to load.
        dp_size: data-parallel ranks.
        read_pixels: only the rank that encodes pictures has to; see build_loader.
        share_skips: how ranks of one replica agree on damaged samples; see build_loader.

    Raises:
        ConfigError: a folder is missing, or nothing of it is held out.
        DataError: a shard is not the one that was indexed.
    """
    reading, opened = reading_of(run.model), []
    if run.evaluate.sources:
        own = replace(run.data, sources=run.evaluate.sources, quarantine="")
        opened.append(open_sources(own, reading))
    if any(source.held_out for source in run.data.sources.values()):
        opened.append(open_sources(run.data, reading, held_out=True))
    found = {}
    for part in opened:
        for source in part.sources:
            once = [replace(source, epochs=None)]
            loader = Loader(
                Plan(once, run.pack, run.data.seed),
                MicrobatchReader(once, read_pixels=read_pixels),
                data=run.data,
                fingerprint={},
                tokenizer=part.tokenizer,
                reading=reading,
                micro_batch_size=1,
                dp_rank=dp_rank,
                dp_size=dp_size,
                share_skips=share_skips,
            )
            found[source.name] = HeldOut(
                loader, run.evaluate.samples, dp_rank=dp_rank, dp_size=dp_size
            )
    return found


def _first_packs(plan: Plan, samples: int) -> Iterator[Pack]:
    """Yield packs of one pass until they hold so many samples."""
    count = 0
    for number in range(plan.windows_per_epoch):
        for pack in plan.window(0, number).packs:
            if count >= samples:
                return
            count += len(pack)
            yield pack
