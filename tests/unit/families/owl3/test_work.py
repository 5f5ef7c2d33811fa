# SPDX-License-Identifier: Apache-2.0
"""The FLOP model agrees with what torch counts while a model runs forward and backward."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from owl.config.run import (
    AbstractorConfig,
    ModelConfig,
    ParallelConfig,
    Precision,
    ProjectorKind,
    Trainable,
)
from owl.families.owl3.config import FusionKind, HyperAttentionConfig
from owl.families.owl3.work import batch_flops
from owl.mcore.process_groups import ProcessGroups
from owl.mcore.provider import build_model
from owl.model.freeze import freeze
from tests.tiny_run import EVERYTHING, tiny_model
from tests.unit.model.packs import make_pack

PACK = make_pack([(40, [3, 17]), (9, []), (23, [0])])
HEAD = 2 * (40 + 9 + 23 - 3) * 32 * 259  # one pass; a sample's first token is not predicted
TOWER_ATTENTION = (
    2 * 2 * 3 * 4**2 * 16 * 2
)  # 2 products x tiles x patches^2 x width x layers that are run
SMALL = AbstractorConfig(num_queries=5, num_layers=2, num_attention_heads=2, ffn_hidden_size=24)
ATTENTION = ("attention to text", "attention to images")


@pytest.mark.parametrize(
    "trainable",
    [
        Trainable(),
        Trainable(fusion=False),
        Trainable(language_model=True),
        EVERYTHING,
    ],
    ids=["stage1", "projector", "stage2", "everything"],
)
@pytest.mark.parametrize("hyper_layers", [[0, 2], [2, 3]], ids=["early", "late"])
@pytest.mark.parametrize("fusion", FusionKind)
def test_weights_are_multiplied_as_often_as_torch_counts(alone, fusion, hyper_layers, trainable):
    hyper = HyperAttentionConfig(layer_indices=hyper_layers, fusion=fusion)
    # Megatron's linear layers compute the gradient of their input even where nothing wants it, so
    # the MLP projector stands here only where the tower learns.
    projector = ProjectorKind.mlp if trainable.vision_tower else ProjectorKind.linear
    model = tiny_model(fusion, hyper_attention=hyper, projector=projector)

    predicted = batch_flops(PACK, model, trainable)
    weights = sum(flops for part, flops in predicted.items() if part not in ATTENTION)
    tower_passes = 3 if trainable.vision_tower else 1

    # torch counts no attention on a CPU, but does see that the loss computes its logits again.
    expected = weights - tower_passes * TOWER_ATTENTION + HEAD
    assert counted(model, trainable, alone) == expected


def counted(model: ModelConfig, trainable: Trainable, groups: ProcessGroups) -> int:
    """Operations of the matrix products that torch counts in one forward and backward."""
    (chunk,) = build_model(model, ParallelConfig(), Precision.fp32, groups)
    freeze(chunk, trainable)
    with FlopCounterMode(display=False) as counter:
        chunk(PACK).sum().backward()
    return sum(counter.get_flop_counts()["Global"].values())


def test_the_abstractor_is_counted_as_torch_counts_it(alone):
    model = tiny_model(projector=ProjectorKind.abstractor, abstractor=SMALL)
    frozen = Trainable(projector=False)
    (chunk,) = build_model(model, ParallelConfig(), Precision.fp32, alone)
    with FlopCounterMode(display=False) as counter:
        chunk.projector(torch.zeros(3 * 4, 1, 16))
    queries, seen, width, layers = 5, 5 + 4, 16, 2
    attention = 2 * 2 * 3 * queries * seen * width * layers

    forward = batch_flops(PACK, model, frozen)["projector"]

    assert counter.get_total_flops() == forward - attention
    assert batch_flops(PACK, model, Trainable())["projector"] == 3 * forward


def test_attention_is_counted_pair_by_pair():
    model = tiny_model(hyper_attention=HyperAttentionConfig(layer_indices=[1, 3]))
    width, forward_and_backward = 4 * model.head_dim, 3

    flops = batch_flops(PACK, model, EVERYTHING)

    pairs_of_text = 40 * 41 // 2 + 9 * 10 // 2 + 23 * 24 // 2
    pairs_with_tiles = (40 - 4) + (40 - 18) + (23 - 1)  # a tile is seen from the token after it
    layers, hyper_layers, patches = 4, 2, 4
    pair = forward_and_backward * 4 * width
    assert flops["attention to text"] == pair * pairs_of_text * layers
    assert flops["attention to images"] == pair * pairs_with_tiles * patches * hyper_layers


def test_frozen_layers_below_the_first_image_have_no_backward_pass():
    model = tiny_model(hyper_attention=HyperAttentionConfig(layer_indices=[2, 3]))
    stage1, stage2 = (
        batch_flops(PACK, model, Trainable(language_model=learns))["attention to text"]
        for learns in (False, True)
    )
    assert stage1 / stage2 == (1 + 1 + 1 + 3) / (3 + 3 + 3 + 3)
