# SPDX-License-Identifier: Apache-2.0
"""One full optimizer step on a GPU, for the three fusions and the GPU's attention backends."""

import math

import pytest
import torch

from owl.config.run import AttentionKind, OptimConfig, ParallelConfig, Precision
from owl.data.samples import Cursor, DataReport, StepBatch
from owl.families.owl3.config import FusionKind
from owl.mcore.optimizer import build_optimizer
from owl.mcore.provider import build_model, wrap_for_training
from owl.train.step import make_step
from tests.tiny_run import EVERYTHING, tiny_model
from tests.unit.model.packs import PLACES, make_pack

pytestmark = pytest.mark.gpu

REPORT = DataReport(samples=len(PLACES), text_tokens=22, tiles=8, packs=1, wait_seconds=0.0)


def first_losses(alone, fusion: FusionKind, attention: AttentionKind, precision: Precision):
    """The losses of three steps on the same pack."""
    torch.manual_seed(0)
    # Heads 16 wide: the narrowest that FlexAttention takes.
    model = tiny_model(fusion, hidden_size=64, attention=attention)
    layout = ParallelConfig()
    chunks = wrap_for_training(
        build_model(model, layout, precision, alone),
        EVERYTHING,
        layout,
        precision=precision,
        distributed_optimizer=True,
    )
    optimizer = build_optimizer(OptimConfig(), chunks, alone, precision=precision, train_steps=10)
    step = make_step(chunks, optimizer, alone)
    batch = make_pack(PLACES).to(alone.device)
    return [
        step(StepBatch(microbatches=[batch], cursor=Cursor(), report=REPORT)).loss for _ in range(3)
    ]


@pytest.mark.parametrize("fusion", list(FusionKind), ids=str)
@pytest.mark.parametrize(
    "attention", [AttentionKind.per_sample, AttentionKind.lse_merge, AttentionKind.flex], ids=str
)
def test_three_steps_in_bfloat16_follow_float32(alone, fusion, attention):
    exact = first_losses(alone, fusion, AttentionKind.reference, Precision.fp32)

    actual = first_losses(alone, fusion, attention, Precision.bf16)

    assert all(math.isfinite(loss) for loss in actual)
    assert actual == pytest.approx(exact, rel=0.03)
