# SPDX-License-Identifier: Apache-2.0
"""No argument of the model is silently without effect: it is served, or refused by its name."""

import pytest
import torch

from tests.unit.families.owl3.hf.conftest import build
from tests.unit.families.owl3.hf.test_modeling_owl3 import inputs
from tests.unit.families.owl3.hf.tiny_owl3 import tiny_config


def test_features_stand_for_the_tiles_that_they_are_of(model):
    batch = inputs()
    batch["pixel_values"] = batch["pixel_values"].double()
    expected = model(**batch, labels=batch["input_ids"])
    features = model.get_image_features(batch.pop("pixel_values"))
    actual = model(**batch, image_embeds=features, labels=batch["input_ids"])
    torch.testing.assert_close(actual.loss, expected.loss)
    assert not torch.allclose(
        expected.loss, model(batch["input_ids"], labels=batch["input_ids"]).loss
    )


@pytest.mark.parametrize("name", ["pixel_value", "images", "pixel_values_videos", "cu_seq_lens_q"])
def test_an_argument_that_is_not_known_is_named(name):
    model, batch = build("joint_softmax"), inputs()
    with pytest.raises(ValueError, match=f"{name} is not an argument of this model"):
        model(batch["input_ids"], **{name: batch["pixel_values"]})


def test_arguments_of_transformers_that_request_nothing_are_accepted(model):
    tokens = torch.zeros(1, 4, dtype=torch.long)
    nothing = {"cache_position": torch.arange(4), "seq_idx": None, "output_router_logits": False}
    assert torch.equal(model(tokens, **nothing).logits, model(tokens).logits)


def test_several_samples_in_one_row_are_refused_not_mixed():
    model = build("joint_softmax")
    tokens, positions = torch.zeros(2, 6, dtype=torch.long), torch.arange(6).repeat(2, 1)
    packed = positions.clone()
    packed[1, 4:] -= 4
    with pytest.raises(ValueError, match="starts again in row 1 at token 4"):
        model(tokens, position_ids=packed)
    mask = torch.tensor([[1] * 6, [0] * 4 + [1] * 2])  # the same numbers, but after padding
    padded = model(tokens, attention_mask=mask, position_ids=packed).logits
    torch.testing.assert_close(padded, model(tokens, attention_mask=mask).logits)


@pytest.mark.parametrize("part", ["text", "tower"])
def test_dropout_of_attention_weights_is_refused(part):
    dropout = {"attention_dropout": 0.1}
    tower = tiny_config().vision_config.to_dict()
    changes = dropout if part == "text" else {"vision_config": tower | dropout}
    with pytest.raises(ValueError, match=r"attention_dropout=0\.1"):
        build("joint_softmax", **changes)


def test_dropout_that_is_set_later_is_refused_as_well():
    model = build("joint_softmax")
    model.config.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"attention_dropout=0\.1"):
        model(torch.zeros(1, 4, dtype=torch.long))


def test_what_the_config_requests_of_every_output_is_obeyed():
    model, tokens = build("joint_softmax"), torch.zeros(1, 4, dtype=torch.long)
    model.config.output_hidden_states = True
    assert len(model(tokens).hidden_states) == 5
    assert model(tokens, output_hidden_states=False).hidden_states is None
    model.config.return_dict = False
    assert isinstance(model(tokens), tuple)
