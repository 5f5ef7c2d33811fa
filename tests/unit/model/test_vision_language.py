# SPDX-License-Identifier: Apache-2.0
"""The whole model: losses, logits, and a gradient for every parameter in every pack."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from owl.config.run import ParallelConfig, Precision, Recompute, Trainable
from owl.data.samples import IGNORE_INDEX
from owl.errors import BatchError
from owl.families.owl3.config import FusionKind
from owl.mcore.provider import build_model
from owl.model.freeze import freeze
from owl.model.tower import tile_attention
from tests.tiny_run import tiny_model
from tests.unit.model.packs import PLACES, make_pack

FUSIONS = pytest.mark.parametrize("kind", list(FusionKind), ids=str)


@pytest.fixture(scope="module")
def build(alone):
    def build(kind: FusionKind = FusionKind.token_gate, **changes):
        torch.manual_seed(0)
        config = tiny_model(kind, **changes)
        (model,) = build_model(config, ParallelConfig(), Precision.fp32, alone)
        return model

    return build


@pytest.mark.parametrize("tied", [False, True])
def test_losses_are_the_cross_entropy_of_the_logits(build, tied):
    model, batch = build(tie_word_embeddings=tied), make_pack(PLACES)

    losses, logits = model(batch), model(batch, return_logits=True)

    assert logits.shape == (batch.num_tokens, 259)
    expected = F.cross_entropy(logits, batch.labels, reduction="none", ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)


def test_tied_embeddings_have_no_output_layer_of_their_own(build):
    names = [name for name, _ in build(tie_word_embeddings=True).named_parameters()]

    assert "embedding.word_embeddings.weight" in names
    assert "output_layer.weight" not in names


def test_the_loss_is_zero_where_nothing_is_learned(build):
    batch = make_pack(PLACES)
    labels = batch.labels.clone()
    labels[: len(labels) // 2] = IGNORE_INDEX

    losses = build()(replace(batch, labels=labels))

    assert torch.equal(losses != 0, labels != IGNORE_INDEX)


@FUSIONS
@pytest.mark.parametrize(
    "places", [PLACES, [(4, []), (3, [])], [(4, [3])]], ids=["tiles", "text only", "none seen"]
)
def test_every_parameter_gets_a_finite_gradient_in_every_pack(build, kind, places):
    model = build(kind)

    model(make_pack(places)).sum().backward()

    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@FUSIONS
@pytest.mark.parametrize("recompute", list(Recompute), ids=str)
def test_stage_1_learns_nothing_from_a_text_only_pack_whatever_is_recomputed(
    alone, kind, recompute
):
    parallel = ParallelConfig(recompute=recompute, recompute_tower=recompute)
    (model,) = build_model(tiny_model(kind), parallel, Precision.fp32, alone)
    freeze(model, Trainable(vision_tower=False, projector=True, language_model=False, fusion=True))

    model(make_pack([(4, []), (3, [])])).sum().backward()

    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert gradients
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@FUSIONS
def test_fusion_alone_learns_the_same_whatever_is_recomputed(alone, kind):
    if kind is FusionKind.joint_softmax:
        learns = Trainable(
            vision_tower=False, projector=False, language_model=True, fusion=True
        )  # it has no gate
    else:
        learns = Trainable(vision_tower=False, projector=False, language_model=False, fusion=True)
    gradients = []
    for recompute in Recompute:
        parallel = ParallelConfig(recompute=recompute, recompute_tower=recompute)
        (model,) = build_model(tiny_model(kind), parallel, Precision.fp32, alone)
        freeze(model, learns)
        model(make_pack(PLACES)).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])

    for kept, *again in zip(*gradients, strict=True):
        assert kept.any()
        assert all(torch.equal(kept, gradient) for gradient in again)


def test_selective_recompute_runs_the_towers_attention_again(alone, monkeypatch):
    calls = []
    attend = tile_attention.F.scaled_dot_product_attention
    monkeypatch.setattr(
        tile_attention.F,
        "scaled_dot_product_attention",
        lambda *heads: calls.append(1) or attend(*heads),
    )
    parallel = ParallelConfig(recompute_tower=Recompute.selective)
    (model,) = build_model(tiny_model(), parallel, Precision.fp32, alone)

    features = model.vision_tower(make_pack(PLACES).pixel_values)
    before = len(calls)
    features.sum().backward()

    assert before == 2  # layers whose output is used
    assert len(calls) == 2 * before


@FUSIONS
def test_a_text_only_pack_moves_nothing_of_the_image_side(build, kind):
    model = build(kind)

    model(make_pack([(4, []), (3, [])])).sum().backward()

    sides = ("vision_tower.", "projector.")
    for name, parameter in model.named_parameters():
        if name.startswith(sides) or ".linear_media_kv." in name or ".fusion." in name:
            assert not parameter.grad.any(), name


@FUSIONS
def test_the_shared_input_norm_learns_from_text_and_from_images(build, kind):
    model = build(kind)
    norm = model.decoder.layers[1].input_layernorm
    seen = []
    norm.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[0]))

    model(make_pack([(7, [1, 4])]))

    assert seen == [7, 2 * 4]  # tokens, then the patches of both tiles


def test_a_pack_whose_boundaries_do_not_fit_is_refused(build):
    batch = make_pack([(7, [1, 4])])

    with pytest.raises(BatchError, match="sample0"):
        build()(replace(batch, media_offset=[[1]]))
