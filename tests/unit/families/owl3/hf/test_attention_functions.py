# SPDX-License-Identifier: Apache-2.0
"""Attention by a function of transformers' registry equals torch's own.

The one here keeps flash attention's contract, which is that of the register: rows come with their
padding, keys are the last ones of a row, causality counts from the end, and grouped heads stay
grouped. flash-attn itself needs a GPU: tests/gpu/test_flash_attention.py.
"""

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM

from tests.unit.families.owl3.hf.conftest import build
from tests.unit.families.owl3.hf.test_generation_owl3 import batch, write

calls: list[tuple[int, int, bool]] = []  # queries, keys, whether padding was given


def by_rows(module, query, key, value, attention_mask, dropout, scaling, **_):
    """Attend row by row, without padding: [b, a, q, d] to [b, q, a, d]."""
    (rows, _, queries, _), keys = query.shape, key.shape[2]
    calls.append((queries, keys, attention_mask is not None))
    assert dropout == 0.0 and module.is_causal
    if attention_mask is None:
        attention_mask = torch.ones(rows, keys, device=query.device)
    assert attention_mask.shape == (rows, keys)
    attended = torch.zeros_like(query)
    for row, real in enumerate(attention_mask.bool()):
        some, real_queries = torch.arange(keys)[real], real[-queries:]
        position = torch.arange(keys - queries, keys)[real_queries]
        attended[row][:, real_queries] = torch.nn.functional.scaled_dot_product_attention(
            query[row][:, real_queries],
            key[row][:, real],
            value[row][:, real],
            attn_mask=position[:, None] >= some,
            scale=scaling,
            enable_gqa=True,
        )
    return attended.transpose(1, 2), None


AttentionInterface.register("by_rows", by_rows)


@pytest.fixture
def other(model):
    """The same weights, attending through the registry."""
    copy = deepcopy(model)
    copy.config._attn_implementation = "by_rows"
    calls.clear()
    return copy


@torch.no_grad()
def test_it_is_chosen_when_a_model_is_loaded(folder):
    tokens = torch.randint(0, 256, (1, 9))
    expected = AutoModelForCausalLM.from_pretrained(folder)(input_ids=tokens).logits
    calls.clear()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="by_rows")
    torch.testing.assert_close(model(input_ids=tokens).logits, expected)
    layers = model.config.num_hidden_layers
    assert calls == layers * [(9, 9, False)]


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_get_the_same_logits(model, other, side):
    inputs = batch(side)
    real = inputs["attention_mask"].bool()
    expected, logits = model(**inputs).logits, other(**inputs).logits
    torch.testing.assert_close(logits[real], expected[real], rtol=0, atol=1e-10)
    longest = real.shape[1]
    assert set(calls) == {(longest, longest, True)}


@torch.no_grad()
def test_generation_is_the_same_token_for_token(model, other):
    assert torch.equal(write(other, batch()), write(model, batch()))
    assert {queries for queries, _, _ in calls} == {batch()["input_ids"].shape[1], 1}


@torch.no_grad()
def test_prompt_lookup_is_the_same_as_well(model, other):
    tokens = batch()["input_ids"][2:, :30]
    row = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    ends = {"eos_token_id": 258}  # transformers 4.57 wants to know one
    looked_up = write(other, row, prompt_lookup_num_tokens=3, **ends)
    assert torch.equal(write(model, row, **ends), looked_up)
    assert any(1 < queries < keys for queries, keys, _ in calls)


def test_gradients_are_the_same(model, other):
    inputs = batch("right")  # to the left, the first token would be message from a pad
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    for network in (model, other):
        network.zero_grad()
        network(**inputs, labels=labels).loss.backward()
    for (name, weight), same in zip(model.named_parameters(), other.parameters(), strict=True):
        if weight.grad is not None:
            torch.testing.assert_close(same.grad, weight.grad, rtol=0, atol=1e-10, msg=name)
    model.zero_grad()


def test_one_that_takes_other_masks_is_one_clear_error(folder):
    with pytest.raises(ValueError, match=r"flex_attention.*use 'sdpa', 'flash_attention_2'"):
        AutoModelForCausalLM.from_pretrained(folder, attn_implementation="flex_attention")


@torch.no_grad()
def test_one_that_is_chosen_later_is_used_or_refused_as_well(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.randint(0, 256, (1, 9))
    expected = model(input_ids=tokens).logits
    calls.clear()
    model.set_attn_implementation("by_rows")
    torch.testing.assert_close(model(input_ids=tokens).logits, expected)
    assert calls
    model.config._attn_implementation = "flex_attention"  # past transformers' own check
    with pytest.raises(ValueError, match=r"flex_attention.*use 'sdpa', 'flash_attention_2'"):
        model(input_ids=tokens)


@torch.no_grad()
def test_options_that_tell_samples_of_a_row_apart_reach_it_without_pictures(model, other):
    seen = {}

    def by_sample(module, query, key, value, attention_mask, dropout, scaling, cu_seq_lens_q, **_):
        seen["layers"] = seen.get("layers", 0) + 1
        stops = cu_seq_lens_q.tolist()
        parts = [
            by_rows(module, query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], None, 0.0, scaling)
            for a, b in pairwise(stops)
        ]
        return torch.cat([heads for heads, _ in parts], dim=1), None

    AttentionInterface.register("by_sample", by_sample)
    other.config._attn_implementation = "by_sample"
    first, second = torch.randint(0, 256, (1, 5)), torch.randint(0, 256, (1, 7))
    packed = {
        "input_ids": torch.cat([first, second], dim=1),
        "position_ids": torch.cat([torch.arange(5), torch.arange(7)])[None],
        "cu_seq_lens_q": torch.tensor([0, 5, 12]),
        "use_cache": False,
    }
    logits = other(**packed).logits
    assert seen["layers"] == 4
    for tokens, part in ((first, logits[:, :5]), (second, logits[:, 5:])):
        torch.testing.assert_close(part, model(tokens).logits, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="cu_seq_lens_q is not an argument"):
        model(**packed)  # torch's own function would mix them
    with pytest.raises(ValueError, match="cu_seq_lens_q is not an argument"):
        other(**packed, pixel_values=batch()["pixel_values"][:1], media_offset=[[1]])


def test_one_that_is_not_installed_is_reported_by_transformers(folder):
    with pytest.raises((ImportError, ValueError), match=r"(?i)flash"):
        AutoModelForCausalLM.from_pretrained(folder, attn_implementation="flash_attention_2")


def test_attention_is_not_part_of_what_is_saved(tmp_path):
    model = build("token_gate")
    model.config._attn_implementation = "by_rows"
    model.save_pretrained(tmp_path)
    assert "by_rows" not in (tmp_path / "config.json").read_text()
