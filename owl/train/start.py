# SPDX-License-Identifier: Apache-2.0
"""Where training starts: a checkpoint of this run, the weights of another one, or at random."""

from dataclasses import dataclass
from pathlib import Path

from owl.checkpoint.folder import newest_checkpoint, resolve_checkpoint
from owl.checkpoint.load import check_can_start, load_lora_config
from owl.checkpoint.save import CARRIED
from owl.checkpoint.state import TrainState
from owl.config.run import LoraConfig, RunConfig
from owl.data.samples import Cursor
from owl.errors import ConfigError
from owl.logging import logger


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """At most one of the two checkpoints is set; with neither, every weight starts at random."""

    resumed: Path | None = None  # of this run: weights, optimizer, random states, data cursor
    weights: Path | None = None  # of another run: weights alone

    @property
    def cursor(self) -> Cursor | None:
        """How far the resumed run has read its data; None for a new run."""
        return TrainState.read(self.resumed).cursor if self.resumed else None

    @property
    def carried(self) -> Path | None:
        """The file of weights that are copied from checkpoint to checkpoint without being used."""
        checkpoint = self.resumed or self.weights
        path = checkpoint / CARRIED if checkpoint else None
        return path if path and path.is_file() else None


def find_start(run: RunConfig) -> Start:
    """Find the run folder's newest checkpoint, or else the weights of checkpoint.start_from.

    Raises:
        ConfigError: the run folder holds checkpoints, but the run must not resume, or has other
            adapters.
        CheckpointError: checkpoint.start_from is no checkpoint, or one of another model.
    """
    newest = newest_checkpoint(Path(run.output))
    if newest is not None and not run.checkpoint.resume:
        raise ConfigError(
            f"checkpoint.resume=false, but output={run.output} already holds {newest.name}. Choose "
            f"another output=, or remove that folder."
        )
    if newest is not None:
        check_same_adapters(newest, run)
        return Start(resumed=newest)
    if run.checkpoint.start_from is None:
        logger.info("checkpoint.start_from is not set: every weight starts at random")
        return Start()
    checkpoint = resolve_checkpoint(Path(run.checkpoint.start_from), "checkpoint.start_from")
    check_can_start(checkpoint, run.model)
    return Start(weights=checkpoint)


def check_same_adapters(resumed: Path, run: RunConfig) -> None:
    """Raise ConfigError where a run's own checkpoint has other adapters than the run."""
    stored = load_lora_config(resumed)
    if stored.adds_as(run.lora):
        return

    def shown(lora: LoraConfig) -> str:
        if not lora.is_on:
            return "no adapters"
        also = f", and {', '.join(lora.also_train)} trained" if lora.also_train else ""
        return f"rank {lora.rank}, alpha {lora.alpha:g} on {', '.join(sorted(lora.targets))}{also}"

    raise ConfigError(
        f"output={run.output} holds {resumed.name} with {shown(stored)}, but lora= gives "
        f"{shown(run.lora)}. Resume with the same, or choose another output= and "
        f"checkpoint.start_from={resumed}."
    )
