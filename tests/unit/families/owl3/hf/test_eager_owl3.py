# SPDX-License-Identifier: Apache-2.0
"""Attention step by step: the same numbers as by torch's function, and its weights."""

from copy import deepcopy

import pytest
import torch

from tests.unit.families.owl3.hf.test_generation_owl3 import OFFSETS, batch

PATCHES = 4


@pytest.fixture
def eager(model):
    """The same weights, attending step by step."""
    copy = deepcopy(model)
    copy.set_attn_implementation("eager")
    assert copy.vision_model.config._attn_implementation == "eager"
    return copy


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_gradients_are_the_same(model, eager, side):
    inputs = batch(side)
    real = inputs["attention_mask"].bool()
    labels = inputs["input_ids"].masked_fill(~real, -100)
    outputs = []
    for network in (model, eager):
        network.zero_grad()
        outputs.append(network(**inputs, labels=labels))
        outputs[-1].loss.backward()
    expected, actual = outputs
    torch.testing.assert_close(actual.logits[real], expected.logits[real], rtol=0, atol=1e-10)
    for (name, weight), same in zip(model.named_parameters(), eager.parameters(), strict=True):
        if weight.grad is not None:
            torch.testing.assert_close(same.grad, weight.grad, rtol=0, atol=1e-10, msg=name)
    assert actual.attentions is None  # not requested
    model.zero_grad()


@torch.no_grad()
def test_weights_are_shares_of_what_a_token_sees(model):
    inputs = batch("right")
    output = model(**inputs, output_attentions=True)
    rows, length = inputs["input_ids"].shape
    assert [step.shape for step in output.attentions] == [(rows, 4, length, length)] * 4
    assert [step.shape for step in output.media_attentions] == [(rows, 4, length, 7 * PATCHES)] * 2
    token = torch.arange(length)
    for row, offsets in enumerate(OFFSETS):
        position = torch.full((7,), length).long()
        position[: len(offsets)] = torch.tensor(offsets) + model.config.media_position_shift
        sees = (token[:, None] >= position).repeat_interleave(PATCHES, dim=1)
        real = inputs["attention_mask"][row].bool()
        for layer, (on_text, on_tiles) in enumerate(
            zip(output.attentions[1::2], output.media_attentions, strict=True)
        ):
            text, tiles = on_text[row][:, real], on_tiles[row][:, real]
            assert not text[:, token[real][:, None] < token].any(), layer
            assert bool((tiles > 0).eq(sees[real]).all()), layer
            text, tiles = text.sum(-1), tiles.sum(-1)
            ones, sees_any = torch.ones_like(text), sees[real].any(-1).double().expand_as(text)
            if model.config.fusion == "joint_softmax":
                torch.testing.assert_close(text + tiles, ones)
            else:
                torch.testing.assert_close(text, ones)
                torch.testing.assert_close(tiles, sees_any)


@torch.no_grad()
def test_weights_come_with_every_token_that_is_written(eager):
    written = eager.generate(
        **batch(), max_new_tokens=3, min_new_tokens=3, eos_token_id=258,
        output_attentions=True, return_dict_in_generate=True,
    )  # fmt: skip
    longest = batch()["input_ids"].shape[1]
    shapes = [step[0].shape[-2:] for step in written.attentions]
    assert shapes == [(longest, longest), (1, longest + 1), (1, longest + 2)]


@torch.no_grad()
def test_the_tower_shows_its_steps_and_weights(model, eager):
    pixels = batch()["pixel_values"]  # 8 tiles, encoded 3 at a time
    features = model.get_image_features(pixels)
    shown = model.get_image_features(pixels, output_hidden_states=True, output_attentions=True)
    for steps in (features, shown, eager.get_image_features(pixels)):
        torch.testing.assert_close(steps.pooler_output, features.pooler_output)
    assert features.hidden_states is None
    assert features.attentions is None
    assert len(shown.hidden_states) == 4  # of three layers, the last of which is not used
    torch.testing.assert_close(shown.hidden_states[-2], features.last_hidden_state)
    assert [step.shape for step in shown.attentions] == [(8, 2, PATCHES, PATCHES)] * 3
    torch.testing.assert_close(shown.attentions[0].sum(-1), torch.ones(8, 2, PATCHES).double())
    as_tuple = model.get_image_features(pixels, return_dict=False)
    assert torch.equal(as_tuple[1], features.pooler_output)
    in_forward = model(**batch(), output_hidden_states=True).image_outputs
    torch.testing.assert_close(in_forward.hidden_states[1], shown.hidden_states[1])
