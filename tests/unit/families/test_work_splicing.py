# SPDX-License-Identifier: Apache-2.0
"""The FLOP models of the families that splice agree with what torch counts."""

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from owl.config.run import FamilyKind, ModelConfig, ParallelConfig, Precision, Trainable
from owl.data.families import WORK
from owl.data.passes import projector_flops, tower_flops
from owl.mcore.provider import build_model
from owl.model.families import BUILDS
from owl.model.freeze import freeze
from tests.tiny_run import EVERYTHING
from tests.unit.model.packs import make_pack

PLACES = [(40, [3, 17]), (9, []), (23, [0])]
FAMILIES = [FamilyKind.owl2, FamilyKind.owl1]
TRAINED = {
    "everything": EVERYTHING,
    "decoder frozen": Trainable(
        vision_tower=True, projector=True, language_model=False, fusion=True
    ),
    "tower frozen": Trainable(vision_tower=False, projector=True, language_model=True, fusion=True),
}


def small(kind: FamilyKind) -> ModelConfig:
    (model,) = (each.model for each in BUILDS[kind].small_models(head_dim=4).values())
    return model


def counted(model: ModelConfig, trainable: Trainable, groups) -> int:
    """Operations that torch counts in one forward and backward, attention included."""
    (chunk,) = build_model(model, ParallelConfig(), Precision.fp32, groups)
    freeze(chunk, trainable)
    batch = make_pack(PLACES, image_size=30, vocab_size=203)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        chunk(batch).sum().backward()
    return sum(counter.get_flop_counts()["Global"].values())


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("kind", FAMILIES, ids=str)
def test_operations_are_those_that_torch_counts(alone, kind, trained):
    model, trainable = small(kind), TRAINED[trained]
    batch = make_pack(PLACES, image_size=30, vocab_size=203)

    parts = dict(WORK[kind].batch_flops(batch, model, trainable))

    # torch's attention computes the half above the diagonal too, and the loss its logits again.
    lengths = [length for length, _ in PLACES]
    half = sum(length * (length + 1) // 2 for length in lengths)
    parts["attention"] = parts["attention"] * sum(n * n for n in lengths) // half
    logits = 2 * (sum(lengths) - len(lengths)) * model.hidden_size * model.vocab_size
    assert sum(parts.values()) + logits == counted(model, trainable, alone)


@pytest.mark.parametrize("kind", FAMILIES, ids=str)
def test_a_tile_weighs_what_its_encoding_costs_beside_a_token(kind):
    model = small(kind)
    tokens, tiles = make_pack([(4000, [])]), make_pack([(4000, list(range(0, 4000, 400)))])

    def work(batch) -> int:
        parts = WORK[kind].batch_flops(batch, model, EVERYTHING)
        return sum(flops for part, flops in parts.items() if part != "attention")

    a_token = work(tokens) / 4000
    assert work(tiles) - work(tokens) == 10 * (
        tower_flops(model, EVERYTHING) + projector_flops(model, EVERYTHING)
    )
    expected = (work(tiles) - work(tokens)) / 10 / a_token
    assert WORK[kind].tile_cost(model, EVERYTHING) == pytest.approx(expected, rel=0.01)


def test_the_second_copy_of_keys_and_values_is_counted():
    model = small(FamilyKind.owl2)
    batch = make_pack(PLACES, image_size=30)
    flops = [
        WORK[FamilyKind.owl2].batch_flops(batch, model, Trainable(fusion=learns))
        for learns in (True, False)
    ]

    weights = 2 * model.hidden_size * model.num_kv_heads * model.head_dim * model.num_layers
    copies = [each["media keys and values"] / (2 * 72 * weights) for each in flops]
    assert copies == [3, 2]
