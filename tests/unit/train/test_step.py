# SPDX-License-Identifier: Apache-2.0
"""One optimizer step: what it counts, and that the cut into micro-batches does not matter."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from owl.config.run import OptimConfig, ParallelConfig, Precision
from owl.data.samples import Cursor, DataReport, PackedBatch, StepBatch
from owl.errors import BatchError
from owl.mcore.optimizer import build_optimizer
from owl.mcore.parameters import global_names
from owl.mcore.provider import build_model, wrap_for_training
from owl.train.loop import StepReport
from owl.train.step import make_step
from tests.tiny_run import EVERYTHING, tiny_model
from tests.unit.model.packs import make_pack

SAMPLES = [(7, [1, 4]), (3, []), (5, [2])]


@pytest.fixture
def start(alone):
    """Start a training of always the same model; return its step and its weights."""

    def start() -> tuple[Callable[[StepBatch], StepReport], dict[str, torch.nn.Parameter]]:
        torch.manual_seed(0)
        chunks = wrap_for_training(
            build_model(tiny_model(), ParallelConfig(), Precision.fp32, alone),
            EVERYTHING,
            ParallelConfig(),
            precision=Precision.fp32,
            distributed_optimizer=True,
        )
        optimizer = build_optimizer(
            OptimConfig(), chunks, alone, precision=Precision.fp32, train_steps=10
        )
        return make_step(chunks, optimizer, alone), dict(global_names(chunks))

    return start


def step_batch(*packs: PackedBatch, **skipped: int) -> StepBatch:
    report = DataReport(
        samples=sum(pack.num_samples for pack in packs),
        text_tokens=sum(pack.num_tokens for pack in packs),
        tiles=sum(pack.num_tiles for pack in packs),
        packs=len(packs),
        wait_seconds=0.0,
        skipped=skipped,
    )
    return StepBatch(microbatches=packs, cursor=Cursor(), report=report)


def test_a_step_reports_what_it_saw(start):
    step, _ = start()

    report = step(step_batch(make_pack(SAMPLES), make_pack([(4, [])]), E301=2))

    assert (report.samples, report.packs, report.text_tokens, report.tiles) == (4, 2, 19, 3)
    assert report.target_tokens == 6 + 2 + 4 + 3  # all but the first token of each sample
    assert report.skipped == {"E301": 2}
    assert report.grad_norm > 0
    assert 0 < report.busy_seconds < report.seconds  # the update is part of the step only


def test_the_loss_is_the_mean_over_all_supervised_tokens(start):
    step, _ = start()
    long, short = make_pack(SAMPLES), make_pack([(2, [])])

    together = step(step_batch(long, short)).loss
    alone = [start()[0](step_batch(pack)).loss for pack in (long, short)]

    assert together == pytest.approx((12 * alone[0] + 1 * alone[1]) / 13, rel=1e-6)


def test_half_the_weight_counts_half(start):
    long, short = make_pack(SAMPLES), make_pack([(2, [])])
    halved = replace(short, loss_weights=short.loss_weights / 2)

    together = start()[0](step_batch(long, halved)).loss
    alone = [start()[0](step_batch(pack)).loss for pack in (long, short)]

    assert together == pytest.approx((12 * alone[0] + 0.5 * alone[1]) / 12.5, rel=1e-6)


def test_a_step_over_two_packs_is_the_step_over_one(start):
    (one, one_weights), (two, two_weights) = start(), start()
    joined = make_pack(SAMPLES)
    parts = split(joined, samples=1)

    first, second = one(step_batch(joined)), two(step_batch(*parts))

    assert second.loss == pytest.approx(first.loss, rel=1e-6)
    assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-5)
    for name, weight in one_weights.items():
        # Gradients, not weights: Adam's first step is a sign, also of what rounding left of a zero.
        torch.testing.assert_close(
            two_weights[name].main_grad, weight.main_grad, rtol=1e-5, atol=1e-6
        )


def split(pack: PackedBatch, *, samples: int) -> tuple[PackedBatch, PackedBatch]:
    """Cut a pack in two after so many samples."""
    row, tile = int(pack.cu_seqlens[samples]), int(pack.cu_media[samples])

    def part(rows: slice, tiles: slice, which: slice) -> PackedBatch:
        seqlens, media_offset = pack.seqlens[which], pack.media_offset[which]
        return replace(
            pack,
            **{n: getattr(pack, n)[rows] for n in ("tokens", "labels", "loss_weights")},
            position_ids=pack.position_ids[rows],
            pixel_values=pack.pixel_values[tiles],
            flat_media_offset=pack.flat_media_offset[tiles],
            cu_seqlens=torch.tensor([0, *seqlens]).cumsum(0).int(),
            cu_media=torch.tensor([0, *map(len, media_offset)]).cumsum(0).int(),
            seqlens=seqlens,
            media_offset=media_offset,
            keys=pack.keys[which],
        )

    return (
        part(slice(row), slice(tile), slice(samples)),
        part(slice(row, None), slice(tile, None), slice(samples, None)),
    )


def test_a_loss_that_is_not_finite_names_the_samples_and_changes_nothing(start):
    step, weights = start()
    batch = make_pack(SAMPLES)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    broken = replace(batch, loss_weights=batch.loss_weights * torch.nan)

    with pytest.raises(BatchError, match="sample0, sample1, sample2"):
        step(step_batch(broken))

    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())
