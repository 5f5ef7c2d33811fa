# SPDX-License-Identifier: Apache-2.0
"""Generating with both caches gives, token for token, what recomputing everything gives."""

import json
import shutil
from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from owl.families.owl3.hf.modeling_owl3 import CACHE
from tests.unit.families.owl3.hf.conftest import build

LENGTHS, OFFSETS = [5, 12, 60], [[], [3], [2, 7, 12, 20, 25, 30, 50]]  # 0, 1 and 7 pictures
NEW = 16


def batch(padding_side: str = "left") -> dict:
    torch.manual_seed(4)
    longest = max(LENGTHS)
    tokens, mask = torch.zeros(3, longest).long(), torch.zeros(3, longest).long()
    for row, length in enumerate(LENGTHS):
        start = longest - length if padding_side == "left" else 0
        tokens[row, start : start + length] = torch.randint(0, 256, (length,))
        mask[row, start : start + length] = 1
    return {
        "input_ids": tokens,
        "attention_mask": mask,
        "pixel_values": torch.rand(8, 3, 28, 28, dtype=torch.float64) * 2 - 1,
        "media_offset": OFFSETS,
    }


def write(model, inputs, **settings) -> torch.Tensor:
    """Generate NEW tokens a row, none of which ends it."""
    settings = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None} | settings
    settings |= {"max_new_tokens": NEW, "min_new_tokens": NEW}
    return model.generate(**inputs, **settings)[:, -NEW:]


def by_hand(model, tokens, **media) -> list[int]:
    """Continue one row greedily by complete forward passes, without generate."""
    for _ in range(NEW):
        logits = model(input_ids=tokens, use_cache=False, **media).logits
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
    return tokens[0, -NEW:].tolist()


@torch.no_grad()
def test_both_caches_give_what_recomputing_gives(model):
    inputs = batch()
    cached = write(model, inputs)
    assert len(set(map(tuple, cached.tolist()))) == 3
    assert torch.equal(cached, write(model, inputs, use_cache=False))
    assert torch.equal(cached, write(model, inputs, use_media_cache=False))


@torch.no_grad()
def test_logits_of_every_step_are_those_of_recomputing(model):
    inputs = batch()
    settings = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    settings |= {"return_dict_in_generate": True, "output_logits": True}
    cached = model.generate(**inputs, **settings)
    recomputed = model.generate(**inputs, **settings, use_cache=False)
    torch.testing.assert_close(cached.logits, recomputed.logits, rtol=0, atol=1e-10)


@torch.no_grad()
def test_each_row_is_what_it_would_be_alone(model):
    inputs = batch()
    cached = write(model, inputs)
    first = 0
    for row, (length, offsets) in enumerate(zip(LENGTHS, OFFSETS, strict=True)):
        tiles = inputs["pixel_values"][first : first + len(offsets)]
        first += len(offsets)
        media = {"pixel_values": tiles, "media_offset": [offsets]} if offsets else {}
        tokens = inputs["input_ids"][row : row + 1, -length:]
        assert cached[row].tolist() == by_hand(model, tokens, **media)


@torch.no_grad()
@pytest.mark.parametrize(
    "settings", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}]
)
def test_beams_share_their_samples_pictures(model, settings):
    inputs = batch()
    cached = write(model, inputs, **settings)
    assert torch.equal(cached, write(model, inputs, use_cache=False, **settings))


@torch.no_grad()
def test_several_tokens_may_follow_a_cached_prompt(model):
    inputs = batch("right")
    row = {
        "pixel_values": inputs["pixel_values"][1:],
        "media_offset": [OFFSETS[2]],
    }
    tokens = inputs["input_ids"][2:]
    whole = model(input_ids=tokens, use_cache=False, **row).logits
    start = model(input_ids=tokens[:, :52], use_cache=True, **row)
    rest = model(input_ids=tokens[:, 52:], **{CACHE: start[CACHE]})
    torch.testing.assert_close(rest.logits, whole[:, 52:], rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_is_taken_under_both_names_that_transformers_gave_it(model, name):
    tokens = batch()["input_ids"][2:]
    whole = model(input_ids=tokens).logits
    start = model(input_ids=tokens[:, :50], use_cache=True)
    rest = model(input_ids=tokens[:, 50:], **{name: start[CACHE]})
    torch.testing.assert_close(rest.logits, whole[:, 50:], rtol=0, atol=1e-10)
    step = model.prepare_inputs_for_generation(tokens, **{name: start[CACHE]}, attention_mask=None)
    assert step["input_ids"].shape[1] == 0  # all 60 are in the cache by now
    with pytest.raises(ValueError, match="names of the same argument"):
        model(input_ids=tokens[:, 50:], cache=start[CACHE], past_key_values=start[CACHE])


@torch.no_grad()
def test_every_step_but_the_first_computes_one_token(model):
    seen = []
    embed = model.get_input_embeddings()
    hook = embed.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    write(model, batch())
    hook.remove()
    assert seen == [60] + [1] * (NEW - 1)


@torch.no_grad()
def test_patches_are_projected_once_a_layer(model, monkeypatch):
    attention = model.language_model.model.layers[1].self_attn
    calls = []
    original = type(attention).media_heads
    monkeypatch.setattr(
        type(attention), "media_heads", lambda *given: calls.append(1) or original(*given)
    )
    write(model, batch())
    assert len(calls) == 2  # two hyper layers, one prefill
    calls.clear()
    write(model, batch(), use_media_cache=False)
    assert len(calls) == 2 * NEW


@torch.no_grad()
def test_features_are_dropped_once_every_layer_has_its_keys(model):
    output = model(**batch(), use_cache=True)
    assert output[CACHE].media.features is None
    assert sorted(output[CACHE].media.cache) == [1, 3]
    plain = model(**batch(), use_cache=True, use_media_cache=False)
    assert plain[CACHE].media.features is not None


@torch.no_grad()
def test_a_static_cache_gives_the_same_tokens(model):
    inputs = batch()
    assert torch.equal(write(model, inputs), write(model, inputs, cache_implementation="static"))


@torch.no_grad()
def test_prompt_lookup_gives_the_same_tokens(model):
    row = {name: batch()[name][2:] for name in ("input_ids", "media_offset")}
    row["pixel_values"] = batch()["pixel_values"][1:]
    ends = {"eos_token_id": 258}  # transformers 4.57 wants to know one
    looked_up = write(model, row, prompt_lookup_num_tokens=3, **ends)
    assert torch.equal(write(model, row, **ends), looked_up)


@torch.no_grad()
def test_a_cache_carries_the_pictures_of_its_tokens(model):
    inputs = batch()
    whole = model.generate(
        **inputs, max_new_tokens=6, eos_token_id=None, return_dict_in_generate=True
    )
    start = model.generate(
        **inputs, max_new_tokens=3, eos_token_id=None, return_dict_in_generate=True
    )
    longer = {
        "input_ids": start.sequences,
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 3), value=1),
        "max_new_tokens": 3,
        "eos_token_id": None,
    }
    for again in ({}, {"pixel_values": inputs["pixel_values"], "media_offset": OFFSETS}):
        cache = deepcopy(start[CACHE])
        written = model.generate(**longer, **again, **{CACHE: cache})
        assert torch.equal(written, whole.sequences)


@torch.no_grad()
def test_pictures_other_than_those_of_the_cache_are_one_clear_error(model):
    start = model(torch.zeros(1, 4).long(), **one_tile(at=1), use_cache=True)
    more = {"input_ids": torch.zeros(1, 2).long(), CACHE: start[CACHE]}
    with pytest.raises(ValueError, match="Pass those of the entire conversation"):
        model(**more, **one_tile(at=4))


def one_tile(at: int) -> dict:
    pixels = torch.rand(1, 3, 28, 28, dtype=torch.float64)
    return {"pixel_values": pixels, "media_offset": [[at]]}


@torch.no_grad()
def test_a_window_that_is_not_used_hides_nothing():
    model = build("joint_softmax", sliding_window=12).double()
    assert torch.equal(write(model, batch()), write(model, batch(), use_cache=False))


@torch.no_grad()
def test_half_precision_gives_numbers():
    model = build("joint_softmax").bfloat16()
    written = write(model, batch())
    assert written.shape == (3, NEW)


def test_the_model_cards_way_decodes_the_answer(folder, processor):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    made = model.init_processor(processor.tokenizer)
    messages = [
        {"role": "user", "content": "<|image|>?"},
        {"role": "assistant", "content": ""},
    ]
    inputs = made(messages, images=[torch.zeros(9, 9, 3, dtype=torch.uint8)], videos=None)
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=6)
    inputs.update({"tokenizer": processor.tokenizer, "max_new_tokens": 6, "decode_text": True})
    message = model.generate(**inputs, do_sample=False)
    new = tokens[:, inputs["input_ids"].shape[1] :]
    assert message == processor.batch_decode(new, skip_special_tokens=True)
    assert isinstance(message[0], str)


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>"])
def test_generation_ends_where_the_tokenizer_ends_turns(processor, end):
    model, token = build("joint_softmax"), processor.tokenizer.convert_tokens_to_ids(end)

    def always_ends(hidden_states):
        tokens = torch.full(hidden_states.shape[:2], token)
        return torch.nn.functional.one_hot(tokens, 259).float()

    model.language_model.lm_head.forward = always_ends
    written = model.generate(
        input_ids=torch.zeros(1, 3).long(),
        tokenizer=processor.tokenizer,
        max_new_tokens=5,
        do_sample=False,
    )

    assert written[0, 3:].tolist() == [token]


def test_decoding_without_a_tokenizer_is_one_clear_error(model):
    with pytest.raises(ValueError, match="needs the tokenizer"):
        model.generate(input_ids=torch.zeros(1, 3).long(), decode_text=True)


def test_features_in_place_of_tiles_give_the_same_tokens(model):
    inputs = batch()
    expected = write(model, inputs)
    features = model.get_image_features(inputs.pop("pixel_values"))
    assert torch.equal(write(model, inputs | {"image_embeds": features}), expected)


@torch.no_grad()
def test_a_prompts_own_positions_are_counted_on(model):
    tokens, positions = torch.randint(0, 256, (1, 6)), 40 + 3 * torch.arange(6)[None]
    prompt = {"input_ids": tokens, "position_ids": positions}
    answer = write(model, prompt)
    for _ in range(NEW):
        logits = model(tokens, position_ids=positions, use_cache=False).logits
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
        positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)
    assert torch.equal(answer, tokens[:, -NEW:])
    assert torch.equal(answer, write(model, prompt, use_cache=False))
    assert not torch.equal(answer, write(model, {"input_ids": prompt["input_ids"]}))
    beams = {"num_beams": 2}
    assert torch.equal(
        write(model, prompt, **beams), write(model, prompt, use_cache=False, **beams)
    )


@pytest.mark.parametrize("settings", [{}, {"use_cache": False}, {"num_beams": 2}])
def test_vectors_in_place_of_tokens_give_the_same_answer(model, settings):
    inputs = batch()
    tokens = inputs.pop("input_ids")
    expected = write(model, inputs | {"input_ids": tokens}, **settings)
    vectors = model.get_input_embeddings()(tokens)
    assert torch.equal(write(model, inputs | {"inputs_embeds": vectors}, **settings), expected)


def test_a_row_of_several_samples_is_refused_by_generate_too(model):
    packed = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with pytest.raises(ValueError, match="starts again in row 0 at token 3"):
        model.generate(torch.zeros(1, 6).long(), position_ids=packed, max_new_tokens=2)


SAMPLING = {
    "do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.5,
    "eos_token_id": [258, 256], "pad_token_id": 256,
}  # fmt: skip


@pytest.fixture
def sampling(folder, tmp_path):
    """A folder whose generation_config.json samples, as the published ones do."""
    shutil.copytree(folder, tmp_path / "sampling")
    GenerationConfig(**SAMPLING).save_pretrained(tmp_path / "sampling")
    return tmp_path / "sampling"


def settings_in(folder) -> dict:
    settings = json.loads((folder / "generation_config.json").read_text())
    return {name: settings.get(name) for name in SAMPLING}


@torch.no_grad()
def test_the_likeliest_token_is_written_unless_sampling_is_chosen(sampling):
    model = AutoModelForCausalLM.from_pretrained(sampling)
    prompt, length = torch.tensor([[5, 6, 7]]), {"max_new_tokens": NEW, "min_new_tokens": NEW}
    expected = prompt
    for _ in range(NEW):
        logits = model(expected, use_cache=False).logits[:, -1:]
        logits[..., [256, 258]] = -torch.inf  # would end the answer
        expected = torch.cat([expected, logits.argmax(-1)], dim=1)
    assert torch.equal(model.generate(prompt, **length), expected)
    chosen = {"generation_config": model.folder_generation_config} | length
    torch.manual_seed(0)
    drawn = [model.generate(prompt, **chosen).tolist() for _ in range(4)]
    assert len({str(one) for one in drawn}) > 1
    torch.manual_seed(0)
    assert model.generate(prompt, do_sample=True, **length).tolist() != expected.tolist()


def test_the_settings_of_a_folder_survive_and_so_do_a_users(sampling, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(sampling)
    model.save_pretrained(tmp_path / "again")
    assert settings_in(tmp_path / "again") == settings_in(sampling) == SAMPLING
    model.generation_config.repetition_penalty = 1.2
    model.save_pretrained(tmp_path / "changed")
    assert settings_in(tmp_path / "changed")["repetition_penalty"] == 1.2


def test_a_config_that_is_passed_to_from_pretrained_is_obeyed(sampling):
    own = GenerationConfig(max_length=77)
    model = AutoModelForCausalLM.from_pretrained(sampling, generation_config=own)
    assert model.generation_config.max_length == 77


def test_decoded_text_has_no_space_around_it(folder, processor, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = processor([{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}])
    monkeypatch.setattr(
        type(processor.tokenizer), "batch_decode", lambda *_, **__: [" the answer\n"]
    )
    written = {"tokenizer": processor.tokenizer, "decode_text": True, "max_new_tokens": 1}
    assert model.generate(**inputs, **written) == ["the answer"]
