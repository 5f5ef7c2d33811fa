# SPDX-License-Identifier: Apache-2.0
"""Generation after prompts with pictures: caches, padding, beams, both forms of prompts."""

import pytest
import torch
from transformers import GenerationConfig

from tests.llama_tokenizer import write_llama_tokenizer
from tests.unit.portable.spliced.spliced_models import (
    FAMILIES,
    KEYS,
    make_pixels,
    make_prompt,
    save_folder,
    tiny_model,
)

NEW = 6
TEXTS = ([4, 3, 2], [6], [2, 5])


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(request.param)


def left_padded():
    """Rows with two pictures, none and one."""
    rows = [make_prompt(texts, seed=seed) for seed, texts in enumerate(TEXTS)]
    longest = max(len(ids) for ids, _ in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for index, (ids, _) in enumerate(rows):
        tokens[index, longest - len(ids) :], mask[index, longest - len(ids) :] = ids, 1
    return {
        "input_ids": tokens,
        "attention_mask": mask,
        "pixel_values": make_pixels(3),
        "media_offset": [offsets for _, offsets in rows],
    }


def write(model, inputs, **settings):
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW} | settings
    return model.generate(**inputs, **settings)


@torch.no_grad()
def test_cached_steps_write_what_complete_recomputation_writes(model):
    inputs = left_padded()

    tokens = write(model, inputs)

    expected = inputs["input_ids"]
    mask = inputs["attention_mask"]
    for _ in range(NEW):
        logits = model(**(inputs | {"input_ids": expected, "attention_mask": mask})).logits[:, -1]
        logits[:, 2] = -torch.inf  # min_new_tokens
        expected = torch.cat([expected, logits.argmax(dim=-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.long)], dim=1)
    assert torch.equal(tokens, expected)
    assert torch.equal(write(model, inputs, use_cache=False), expected)
    assert torch.equal(write(model, inputs, cache_implementation="static"), expected)


@torch.no_grad()
def test_a_batch_writes_what_its_rows_write_alone(model):
    inputs = left_padded()
    together = write(model, inputs)[:, -NEW:]
    first = 0
    for index, offsets in enumerate(inputs["media_offset"]):
        pixels = inputs["pixel_values"][first : first + len(offsets)]
        first += len(offsets)
        real = inputs["attention_mask"][index].bool()
        media = {"pixel_values": pixels, "media_offset": [offsets]} if offsets else {}
        alone = write(model, {"input_ids": inputs["input_ids"][index][real][None], **media})
        assert torch.equal(alone[0, -NEW:], together[index])


@torch.no_grad()
@pytest.mark.parametrize("cached", [True, False])
def test_beams_and_several_answers_share_the_pictures(model, cached):
    inputs = left_padded()

    greedy = write(model, inputs)
    beams = write(model, inputs, num_beams=3, num_return_sequences=2, use_cache=cached)

    assert beams.shape == (6, greedy.shape[1])
    assert torch.equal(beams[::2, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    one = {"input_ids": make_prompt([4, 3])[0][None], "pixel_values": make_pixels(1, seed=4)}
    one["media_offset"] = [[4]]
    same = write(model, one, num_beams=1)
    assert torch.equal(same, write(model, one, do_sample=True, top_k=1, num_return_sequences=1))


@torch.no_grad()
def test_a_prompt_with_published_marks_comes_back_as_it_was(model):
    ids, offsets = make_prompt([4, 3])
    width = 1 if model.config.model_type == "mplug_owl2" else KEYS
    marks = torch.full((width,), -200 if width == 1 else -1)
    marked = torch.cat([ids[:4], marks, ids[4 + KEYS :]])[None]
    pixels = make_pixels(1)

    ours = write(model, {"input_ids": ids[None], "pixel_values": pixels, "media_offset": [offsets]})
    theirs = model.generate(marked, images=pixels, max_new_tokens=NEW, min_new_tokens=NEW)

    assert torch.equal(theirs[:, : marked.shape[1]], marked)
    assert torch.equal(theirs[:, marked.shape[1] :], ours[:, len(ids) :])
    scored = write(model, {"input_ids": marked, "images": pixels}, return_dict_in_generate=True)
    assert torch.equal(scored.sequences, theirs)


@torch.no_grad()
def test_a_prompt_may_be_vectors(model):
    ids, _ = make_prompt([6])
    vectors = model.get_input_embeddings()(ids[None])

    expected = write(model, {"input_ids": ids[None]})[:, len(ids) :]

    assert torch.equal(write(model, {"inputs_embeds": vectors}), expected)
    assert torch.equal(write(model, {"inputs_embeds": vectors}, use_cache=False), expected)
    both = write(model, {"input_ids": ids[None], "inputs_embeds": vectors})
    assert torch.equal(both, torch.cat([ids[None], expected], dim=1))
    shown, offsets = make_prompt([3, 4])
    media = {"pixel_values": make_pixels(1), "media_offset": [offsets]}
    vectors = model.get_input_embeddings()(shown[None])
    expected = write(model, {"input_ids": shown[None]} | media)[:, len(shown) :]
    assert torch.equal(write(model, {"inputs_embeds": vectors} | media), expected)


def test_the_likeliest_token_is_written_unless_sampling_is_chosen(tmp_path):
    save_folder("owl1", tmp_path)
    GenerationConfig(do_sample=True, top_k=3, eos_token_id=2).save_pretrained(tmp_path)
    model = type(tiny_model("owl1")).from_pretrained(tmp_path)

    assert not model.generation_config.do_sample
    assert model.folder_generation_config.top_k == 3
    model.save_pretrained(tmp_path / "again")
    assert GenerationConfig.from_pretrained(tmp_path / "again").top_k == 3


def test_answers_are_decoded_and_end_where_the_tokenizer_says(model, tmp_path):
    from transformers import PreTrainedTokenizerFast

    file = write_llama_tokenizer(tmp_path) / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="</s>")
    ids, _ = make_prompt([6])
    tokens = write(model, {"input_ids": ids[None]})[0, len(ids) :]

    (text,) = write(model, {"input_ids": ids[None]}, tokenizer=tokenizer, decode_text=True)
    assert text == tokenizer.decode(tokens, skip_special_tokens=True).strip()

    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(tokens[2]))
    ended = model.generate(ids[None], max_new_tokens=NEW, tokenizer=tokenizer)
    assert ended.shape[1] - len(ids) == tokens.tolist().index(int(tokens[2])) + 1
    with pytest.raises(ValueError, match="needs the tokenizer"):
        model.generate(ids[None], decode_text=True)
