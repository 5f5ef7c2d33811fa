# SPDX-License-Identifier: Apache-2.0
"""The rehearse node: a cluster that does not exist, on which a run is rehearsed."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from owl.config.rules import too_small


class MixKind(StrEnum):
    """Where the packs of a rehearsal come from."""

    auto = "auto"  # data where the run's folders exist, else uniform
    data = "data"  # the run's own data
    uniform = "uniform"  # eight equal samples fill both budgets, pictures first
    captions = "captions"  # one picture and a sentence each, as many as fit
    interleaved = "interleaved"  # captions, web documents, videos, cut pages and text
    instructions = "instructions"  # cut pictures, several pictures, videos and text


@dataclass(kw_only=True)
class RehearseConfig:
    """What `owl rehearse` assumes; training does not read it."""

    gpus: int | None = None
    """Devices of the job; null: one replica, parallel.tensor x parallel.pipeline."""
    device: str = "h200"
    """Machine table: the name of a file in configs/device."""
    rank: int | None = None
    """Rank to rehearse; null: one of the first and one of the last pipeline stage."""
    mix: MixKind = MixKind.auto
    micro_batches: int | None = None
    """Micro-batches to run; null: as many as fill the pipeline. Times are scaled to a full step."""
    compare: bool = True
    """Rehearse a second rank whose packs have no pictures, and compare what both communicate:
    another order would be a hang."""
    json: str | None = None
    """File to write the figures to."""

    def problems(self) -> Iterator[str]:
        """Yield one problem for each setting that cannot work."""
        for name in ("gpus", "micro_batches"):
            value = getattr(self, name)
            if value is not None:
                yield from too_small(f"rehearse.{name}", value, 1, "it counts something")
        if self.rank is not None:
            yield from too_small("rehearse.rank", self.rank, 0, "ranks are counted from 0")
            if self.gpus is not None and self.rank >= self.gpus:
                yield (
                    f"rehearse.rank={self.rank} is not one of rehearse.gpus={self.gpus} ranks, "
                    f"which are counted from 0."
                )
