# SPDX-License-Identifier: Apache-2.0
"""Rehearse one rank: build, wrap, optimizer and a step, with the code that trains."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from owl.config.run import RunConfig
from owl.data.samples import Cursor, DataReport, PackedBatch, StepBatch
from owl.mcore.optimizer import Optimizer
from owl.mcore.process_groups import ProcessGroups, layout
from owl.mcore.provider import build_model
from owl.rehearse import stand_ins
from owl.rehearse.fake_device import Waits
from owl.rehearse.watch import Record, Watch
from owl.train.run import build_run_optimizer, load_start, wrap_chunks
from owl.train.start import Start
from owl.train.step import make_step


def rehearse_rank(run: RunConfig, packs: Sequence[PackedBatch], *, rank: int, ranks: int) -> Record:
    """Run two steps of one rank on fake tensors, and return the second: it has optimizer state.

    Args:
        run: its settings.
        packs: micro-batches of the step.
        rank: of the job.
        ranks: of the job.
    """
    watch = Watch("cuda", stand_ins.answers(packs))
    Waits.on_wait = watch.wait
    device = torch.device("cuda", 0)
    with (
        stand_ins.fake_job(rank, ranks),
        layout(run.parallel, device, seed=run.seed) as groups,
        stand_ins.installed(run, packs, groups.collection.pp.rank()),
        watch,
    ):
        chunks, optimizer = _build(run, groups, watch)
        step = make_step(chunks, optimizer, groups)
        for _ in range(2):
            watch.start_step()
            with watch.during("step"):
                step(_step_batch(packs))
    return watch.record


def _build(
    run: RunConfig, groups: ProcessGroups, watch: Watch
) -> tuple[list[nn.Module], Optimizer]:
    """Build what a step needs, as owl.train.run does; no weights are loaded."""
    with groups.device:
        chunks = build_model(run.model, run.parallel, run.precision, groups)
        load_start(run, Start(), chunks, groups)
    with watch.during("wrap"):
        chunks = wrap_chunks(run, chunks)
    with watch.during("optimizer"):
        optimizer = build_run_optimizer(run, chunks, groups)
    watch.follow(chunks, part_of)
    optimizer.megatron.step = _watched(watch, "optimizer", optimizer.megatron.step)
    return chunks, optimizer


def _watched(watch: Watch, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with watch.during(phase):
            return function(*args, **kwargs)

    return call


_TOP = {
    "vision_tower": "tower",
    "projector": "projector",
    "embedding": "embedding",
    "output_layer": "head",
}
_OF_A_LAYER = {"self_attention": "attention", "mlp": "MLP"}


def part_of(name: str) -> str | None:
    """Return the part that a module begins, by its name in our model; None for one inside."""
    top, *rest = name.split(".")
    if not rest:
        return _TOP.get(top)
    if top != "decoder":
        return None
    if rest == ["final_layernorm"] or (len(rest) == 3 and rest[2].endswith("layernorm")):
        return "norms"
    if len(rest) == 2:
        return "residuals"  # what a layer does between its modules
    return _OF_A_LAYER.get(rest[2]) if len(rest) == 3 else None


def _step_batch(packs: Sequence[PackedBatch]) -> StepBatch:
    report = DataReport(
        samples=sum(pack.num_samples for pack in packs),
        text_tokens=sum(pack.num_tokens for pack in packs),
        tiles=sum(pack.num_tiles for pack in packs),
        packs=len(packs),
        wait_seconds=0.0,
    )
    return StepBatch(microbatches=packs, cursor=Cursor(), report=report)
