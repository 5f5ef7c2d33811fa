# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from owl.hf import Owl3ForConditionalGeneration, Owl3Processor
from tests.unit.data.shard_factory import write_tokenizer
from tests.unit.families.owl3.hf.tiny_owl3 import tiny_config


@pytest.fixture(scope="module", params=["token_gate", "static_gate", "joint_softmax"])
def model(request) -> Owl3ForConditionalGeneration:
    """A random float64 model of each variant, its gates and biases away from zero."""
    return build(request.param).double()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A saved model with its byte tokenizer."""
    path = tmp_path_factory.mktemp("owl3")
    build("joint_softmax").save_pretrained(path)
    write_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def processor(folder) -> Owl3Processor:
    return Owl3Processor.from_pretrained(folder)


def build(fusion: str, **changes) -> Owl3ForConditionalGeneration:
    torch.manual_seed(0)
    network = Owl3ForConditionalGeneration(tiny_config(fusion, **changes)).eval()
    for name, parameter in network.named_parameters():
        # Norms stay near one: a model that answers every prompt alike would test nothing.
        torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.3)
    network.tie_weights()
    return network
