# SPDX-License-Identifier: Apache-2.0
"""A data-parallel rank without pictures beside one with: nothing hangs, no gradient changes."""

from pathlib import Path

import pytest
import torch

from owl.config.run import (
    DeviceKind,
    FamilyKind,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    Precision,
)
from owl.mcore.launch import run_in_processes
from owl.mcore.optimizer import build_megatron_optimizer, optimizer_config
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model, wrap_for_training
from owl.mcore.schedule import attach_to_schedule, forward_backward, sum_over_data_parallel
from owl.model.families import BUILDS
from owl.parity.trial import gather_published
from tests.tiny_run import EVERYTHING
from tests.unit.model.packs import make_pack

# Per rank two micro-batches; the second rank has text alone.
PLACES = [[(20, [2, 9])], [(8, []), (12, [5])], [(14, [])], [(6, []), (5, [])]]


def model_config(kind: FamilyKind) -> ModelConfig:
    (model,) = (each.model for each in BUILDS[kind].small_models(head_dim=4).values())
    return model


def gradients(kind: FamilyKind, output: Path, overlap: bool) -> None:
    """Write the gradients of all micro-batches, shared out over the ranks of this job."""
    parallel = ParallelConfig(device=DeviceKind.cpu, timeout_minutes=1, overlap_grad_reduce=overlap)
    config = model_config(kind)
    with process_groups(parallel) as groups:
        chunks = build_model(config, parallel, Precision.fp64, groups)
        chunks = wrap_for_training(
            chunks,
            EVERYTHING,
            parallel,
            precision=Precision.fp64,
            distributed_optimizer=False,
            bucket_size=4000,
        )
        optim = optimizer_config(OptimConfig(distributed=False), Precision.fp64)
        optimizer = build_megatron_optimizer(optim, chunks)
        attach_to_schedule(chunks, optimizer, groups)
        batches = [make_pack(each, image_size=30, vocab_size=203) for each in PLACES]
        share = len(batches) // groups.dp_size
        batches = batches[groups.dp_rank * share : (groups.dp_rank + 1) * share]
        weight = sum_over_data_parallel(sum(b.supervised_weight for b in batches), groups)
        chunks[0].zero_grad_buffer()
        forward_backward(chunks, batches, groups, total_weight=weight, full_gradients=True)
        found = gather_published(chunks, config, groups, gradients=True)
        if groups.is_writer:
            torch.save(found, output)


@pytest.mark.parametrize(
    ("kind", "overlap"),
    [(FamilyKind.owl2, True), (FamilyKind.owl1, False)],
    ids=["owl2, reductions overlapped", "owl1"],
)
def test_gradients_are_those_of_one_process(tmp_path, kind, overlap):
    run_in_processes(gradients, 1, kind, tmp_path / "one.pt", False)
    run_in_processes(gradients, 2, kind, tmp_path / "two.pt", overlap)

    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    assert one.keys() == two.keys()
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-10, atol=1e-13, msg=name)
    pictures = [name for name in one if "vision_model" in name or "multiway.1" in name]
    assert all(one[name].any() for name in pictures)
