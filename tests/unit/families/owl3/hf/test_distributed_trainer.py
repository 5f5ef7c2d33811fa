# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes train as one does: tower unfrozen, layers recomputed, gradients averaged."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit.families.owl3.hf.conftest import build
from tests.unit.families.owl3.hf.test_modeling_owl3 import inputs

SCRIPT = """
import sys
import torch
from torch.nn.parallel import DistributedDataParallel
from tests.unit.families.owl3.hf.test_distributed_trainer import gradients
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
found = gradients(rank, DistributedDataParallel)
if rank == 0:
    torch.save(found, sys.argv[1])
torch.distributed.destroy_process_group()
"""


def gradients(seed: int, wrap=lambda model: model) -> dict[str, torch.Tensor]:
    """Compute the gradients of a batch after a first step, recomputing layers."""
    model = build("joint_softmax").train()
    model.gradient_checkpointing_enable()
    network, batch = wrap(model), inputs()
    labels = (batch["input_ids"] + seed) % 250
    for _ in range(2):  # DDP finds a parameter without gradient at the second step
        model.zero_grad()
        network(**batch, labels=labels).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_two_processes_average_the_gradients_of_their_batches(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    file = tmp_path / "gradients.pt"
    root = str(Path(__file__).parents[5])
    environment = os.environ | {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(file)], env=environment | {"RANK": str(rank)}
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    averaged, alone = torch.load(file), [gradients(rank) for rank in range(2)]
    assert averaged.keys() == alone[0].keys()
    assert any(name.startswith("vision_model.encoder.layers.0") for name in averaged)
    for name, gradient in averaged.items():
        torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2, msg=name)
