# SPDX-License-Identifier: Apache-2.0
"""One logger, and one line a step.

Rank 0 logs everything; other ranks only warnings, with their rank.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

logger = logging.getLogger("owl")

# Warnings at the import of megatron-core about packages that are optional here (the docs describe
# how to install them), and about its own internals: users can do nothing about them.
_NOT_ACTIONABLE = (
    ".*[Aa]pex.*",
    ".*[Tt]ransformer[ _]?[Ee]ngine.*",
    ".*nvidia_resiliency_ext.*",
    ".*emerging[ _]optimizers.*",
    ".*flash[ _-]?(attn|linear|mla).*",
    ".*pynvml.*",
    ".*DTensor.*deprecated.*",
    ".*(reduce_scatter_tensor|all_gather_into_tensor|load_state_dict).*deprecated.*",
    ".*tp_group is None.*",
    ".*MLP requires ffn_hidden_size.*",
    ".*non-leaf Tensor.*|.*not a leaf Tensor.*",  # its optimizer reads .grad of views of weights
)


def set_up_logging(rank: int | None = None) -> None:
    """Let the logger "owl" write to stderr, at this rank's level. Safe to call twice.

    Args:
        rank: of this process among all; read from RANK when None.
    """
    rank = int(os.environ.get("RANK", "0")) if rank is None else rank
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s" if rank == 0 else _rank_format(rank)))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logger.propagate = False
    silence_imports()


def silence_imports() -> None:
    """Drop warnings that users cannot act on. Call before megatron.core is imported."""
    for pattern in _NOT_ACTIONABLE:
        warnings.filterwarnings("ignore", message=pattern)
    logging.getLogger("megatron.core").setLevel(logging.ERROR)


def _rank_format(rank: int) -> str:
    return f"[rank {rank}] %(levelname)s %(message)s"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """The numbers of one log line. Rates are over all ranks, fills are fractions of the budgets."""

    step: int
    train_steps: int
    loss: float
    grad_norm: float
    learning_rate: float
    part_rates: Mapping[str, float] = field(default_factory=dict)  # where they differ
    samples: int  # consumed by this step, over all ranks
    target_tokens: int  # supervised ones among them
    text_tokens_per_second: float
    tiles_per_second: float
    text_fill: float
    tile_fill: float
    tflops_per_device: float  # model work per second, as the family counts it
    mfu: float | None  # None where the peak of the device is not known
    imbalance: float | None  # most work of a rank over the mean, minus 1, as planned
    measured_imbalance: float | None  # from times; both None with one data-parallel rank
    step_seconds: float
    wait_seconds: float  # for data, part of step_seconds, on the rank that waited longest
    eta_seconds: float
    skipped_samples: int = 0  # content errors so far; shown when there are any


def step_line(figures: StepFigures) -> str:
    """Format a step as one line with units, always in the same order, for reading and for grep."""
    mfu = "" if figures.mfu is None else f", mfu {figures.mfu:.0%}"
    parts = [
        f"step {figures.step}/{figures.train_steps}",
        f"loss {figures.loss:.4f}",
        f"grad_norm {figures.grad_norm:.3g}",
        f"lr {figures.learning_rate:.1e}{_part_rates(figures)}",
        f"{figures.samples} samples",
        f"{_short(figures.target_tokens)} targets",
        f"{_short(figures.text_tokens_per_second)} text tok/s",
        f"{_short(figures.tiles_per_second)} img/s",
        f"fill {figures.text_fill:.0%} tok {figures.tile_fill:.0%} img",
        f"{_short(figures.tflops_per_device)} TFLOP/s per device{mfu}",
        *_imbalance(figures),
        f"{figures.step_seconds:.2f} s ({figures.wait_seconds:.2f} for data)",
        f"eta {duration(figures.eta_seconds)}",
        *([f"skipped {figures.skipped_samples}"] if figures.skipped_samples else []),
    ]
    return " | ".join(parts)


def _part_rates(figures: StepFigures) -> str:
    rates = [f"{part} {rate:.1e}" for part, rate in figures.part_rates.items()]
    return f" ({', '.join(rates)})" if rates else ""


def _imbalance(figures: StepFigures) -> Iterator[str]:
    if figures.imbalance is not None and figures.measured_imbalance is not None:
        yield f"imbalance {figures.imbalance:.0%} (measured {figures.measured_imbalance:.0%})"


def duration(seconds: float) -> str:
    """Format a time in its two largest units: "1d 8h", "12m 5s", "9s"."""
    left = round(max(seconds, 0))
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, left = divmod(left, size)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def _short(number: float) -> str:
    """Format a count with at most three digits: 87, 3.1k, 412k, 1.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            scaled = number / size
            return f"{scaled:.0f}{unit}" if scaled >= 10 else f"{scaled:.1f}{unit}"
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"
