# SPDX-License-Identifier: Apache-2.0
"""A run that starts at random starts with the same weights in every layout."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from owl.config.run import DeviceKind, ParallelConfig, Precision
from owl.mcore.launch import run_in_processes
from owl.mcore.parameters import global_names, shard_of
from owl.mcore.process_groups import job, layout, process_groups
from owl.mcore.provider import build_model
from tests.tiny_run import tiny_model

LAYOUTS = [
    {"tensor": 4},
    {"tensor": 2, "pipeline": 2, "sequence": True},
    {"pipeline": 2, "virtual_pipeline": 2},
]


def sizes(tied: bool):
    tower = replace(tiny_model().vision_tower, num_attention_heads=4)
    return tiny_model(num_kv_heads=4, tie_word_embeddings=tied, vision_tower=tower)


def build_all(full: Path, seed: int) -> None:
    """Build this rank's shard in each layout and compare it with its cut of the full weights."""
    with job(parallel({})) as device:
        for degrees, tied in product(LAYOUTS, (False, True)):
            with layout(parallel(degrees), device, seed=seed) as groups:
                reference = torch.load(full)[tied]
                if tied:
                    reference["output_layer.weight"] = reference["embedding.word_embeddings.weight"]
                chunks = build_model(sizes(tied), parallel(degrees), Precision.fp32, groups)
                tp = groups.collection.tp
                for name, parameter in global_names(chunks):
                    cut = shard_of(reference[name], parameter, tp_rank=tp.rank(), tp_size=tp.size())
                    assert torch.equal(cut, parameter), f"{name}, {degrees}"


def parallel(degrees: dict) -> ParallelConfig:
    return ParallelConfig(device=DeviceKind.cpu, timeout_minutes=1, **degrees)


def draw_full(tied: bool, seed: int) -> dict[str, torch.Tensor]:
    with process_groups(parallel({}), seed=seed, alone=True) as groups:
        chunks = build_model(sizes(tied), parallel({}), Precision.fp32, groups)
        return {name: parameter.detach().clone() for name, parameter in global_names(chunks)}


def test_every_layout_starts_with_the_same_weights(tmp_path):
    full = tmp_path / "full.pt"
    torch.save({tied: draw_full(tied, seed=7) for tied in (False, True)}, full)

    run_in_processes(build_all, 4, full, 7)


def test_a_start_is_small_and_its_seed_matters():
    first, second = draw_full(False, seed=7), draw_full(False, seed=8)

    same = {name for name, weight in first.items() if torch.equal(weight, second[name])}
    assert all("norm" in name or "gate" in name or name.endswith("bias") for name in same)
    assert all(weight.isfinite().all() for weight in first.values())
    table = first["embedding.word_embeddings.weight"]
    assert table.std() == pytest.approx(sizes(False).init_std, rel=0.05)
