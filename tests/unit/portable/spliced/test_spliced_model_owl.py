# SPDX-License-Identifier: Apache-2.0
"""Models whose pictures are part of the text: inputs, padding, gradients, loading and saving."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from owl.portable.loss_owl import IGNORE_INDEX
from tests.unit.portable.spliced.spliced_models import (
    FAMILIES,
    KEYS,
    make_pixels,
    make_prompt,
    save_folder,
    tiny_config,
    tiny_model,
)

PROMPTS = ([4, 3, 2], [6], [0, 0, 1], [5, 0])
"""Text around pictures: two apart, none, two adjacent at the start, one at the end."""


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(request.param)


def make_rows():
    """Rows with their places and pictures."""
    rows = [make_prompt(texts, seed=seed) for seed, texts in enumerate(PROMPTS)]
    return rows, [make_pixels(len(offsets), seed=seed) for seed, (_, offsets) in enumerate(rows)]


def pad(rows, side):
    longest = max(len(ids) for ids, _ in rows)
    tokens = torch.full((len(rows), longest), 7)
    mask = torch.zeros_like(tokens)
    for index, (ids, _) in enumerate(rows):
        part = slice(0, len(ids)) if side == "right" else slice(longest - len(ids), longest)
        tokens[index, part], mask[index, part] = ids, 1
    return tokens, mask


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_of_mixed_pictures_gives_the_logits_of_its_rows(model, side):
    rows, pixels = make_rows()
    tokens, mask = pad(rows, side)

    batch = model(
        input_ids=tokens,
        attention_mask=mask,
        pixel_values=torch.cat(pixels),
        media_offset=[offsets for _, offsets in rows],
    ).logits

    for index, (ids, offsets) in enumerate(rows):
        media = {"pixel_values": pixels[index], "media_offset": [offsets]} if offsets else {}
        alone = model(input_ids=ids[None], **media).logits[0]
        torch.testing.assert_close(batch[index][mask[index].bool()], alone, rtol=0, atol=2e-5)


@torch.no_grad()
def test_what_a_placeholder_says_does_not_matter_and_a_picture_does(model):
    ids, offsets = make_prompt([3, 4])
    other = ids.clone()
    other[offsets[0] : offsets[0] + KEYS] = 77
    pixels = make_pixels(1)

    first, same, blind = (
        model(input_ids=row[None], pixel_values=picture, media_offset=[offsets]).logits
        for row, picture in ((ids, pixels), (other, pixels), (ids, pixels + 1))
    )

    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert (first - blind)[0, -1].abs().max() > 1e-3
    torch.testing.assert_close(first[0, : offsets[0]], blind[0, : offsets[0]])  # causal


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_published_marks_are_read(model, side):
    rows, pixels = make_rows()
    width = 1 if model.config.model_type == "mplug_owl2" else KEYS
    marked = []
    for ids, offsets in rows:
        parts, start = [], 0
        for offset in offsets:
            parts += [ids[start:offset], torch.full((width,), -200)]
            start = offset + KEYS
        marked.append((torch.cat([*parts, ids[start:]]), offsets))
    tokens, mask = pad(marked, side)
    plain, plain_mask = pad(rows, side)

    ours = model(
        input_ids=plain,
        attention_mask=plain_mask,
        pixel_values=torch.cat(pixels),
        media_offset=[offsets for _, offsets in rows],
        labels=plain.masked_fill(plain_mask == 0, IGNORE_INDEX),
    )
    labels = tokens.masked_fill((mask == 0) | (tokens < 0), IGNORE_INDEX)
    theirs = model(input_ids=tokens, attention_mask=mask, images=torch.cat(pixels), labels=labels)

    real = plain_mask.bool()
    torch.testing.assert_close(theirs.logits[real], ours.logits[real])
    assert theirs.loss.isfinite()
    assert theirs.loss != ours.loss  # placeholders are not learned


@torch.no_grad()
def test_vectors_of_the_text_may_stand_for_its_tokens(model):
    ids, offsets = make_prompt([3, 4])
    media = {"pixel_values": make_pixels(1), "media_offset": torch.tensor([offsets])}
    vectors = model.get_input_embeddings()(ids[None])

    given = model(inputs_embeds=vectors, **media).logits

    torch.testing.assert_close(given, model(input_ids=ids[None], **media).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_output_layer_stays_tied(tmp_path, family):
    model = tiny_model(family, tie_word_embeddings=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight

    model.save_pretrained(tmp_path)

    again = type(model).from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


@torch.no_grad()
def test_the_base_model_sees_the_pictures_too(model):
    ids, offsets = make_prompt([3, 4])
    inputs = {"input_ids": ids[None], "pixel_values": make_pixels(1), "media_offset": [offsets]}

    hidden = model.base_model(**inputs).last_hidden_state

    logits = model.get_output_embeddings()(hidden)
    torch.testing.assert_close(logits, model(**inputs).logits)
    assert len(model(**inputs, output_hidden_states=True).hidden_states) == 3
    assert len(model.base_model(**inputs, output_hidden_states=True).hidden_states) == 3


@torch.no_grad()
def test_eager_attention_gives_its_weights(model):
    ids, offsets = make_prompt([3, 4])
    inputs = {"input_ids": ids[None], "pixel_values": make_pixels(1), "media_offset": [offsets]}
    eager = tiny_model("owl1" if model.config.model_type == "mplug-owl" else "owl2")
    eager.set_attn_implementation("eager")

    output = eager(**inputs, output_attentions=True)

    torch.testing.assert_close(output.logits, model(**inputs).logits, rtol=0, atol=1e-5)
    assert [each.shape for each in output.attentions] == [(1, 4, 12, 12)] * 2


@torch.no_grad()
def test_features_may_stand_for_pixels_and_bytes_for_floats(model):
    ids, offsets = make_prompt([3, 4])
    raw = torch.randint(0, 256, (1, 3, 28, 28), dtype=torch.uint8)
    from owl.portable.spliced.clip_tower_owl import normalise_clip

    inputs = {"input_ids": ids[None], "media_offset": [offsets]}
    expected = model(pixel_values=normalise_clip(raw, torch.float32), **inputs).logits

    features = model.get_image_features(raw).pooler_output
    assert features.shape == (1, KEYS, 32)
    torch.testing.assert_close(model(pixel_values=raw, **inputs).logits, expected)
    torch.testing.assert_close(model(image_embeds=features, **inputs).logits, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"media_offset": None}, "without media_offset"),
        ({"pixel_values": None}, "neither pixel_values nor image_embeds"),
        ({"media_offset": [[3, 9]]}, "1 pictures but media_offset lists 2"),
        ({"media_offset": [[3], []]}, "2 rows for 1 rows"),
        ({"media_offset": [[8]]}, "do not fit before token 12"),
        ({"pixel_values": torch.zeros(1, 3, 14, 14)}, r"must be \[pictures, 3, 28, 28\]"),
        ({"image_embeds": torch.zeros(1, KEYS, 32)}, "hold the same pictures"),
        ({"inputs_embeds": torch.zeros(1, 12, 32)}, "exactly one of input_ids"),
        ({"input_ids": None}, "exactly one of input_ids"),
        ({"pixel_value": 3}, "pixel_value is not an argument"),
    ],
)
def test_inputs_that_do_not_fit_are_an_error(model, change, message):
    ids, offsets = make_prompt([3, 4])
    inputs = {"input_ids": ids[None], "pixel_values": make_pixels(1), "media_offset": [offsets]}

    with pytest.raises(ValueError, match=message):
        model(**(inputs | change))


def test_part_of_a_mark_is_an_error(model):
    tokens = torch.tensor([[3, -1, -1, 4]])
    if model.config.model_type == "mplug_owl2":
        with pytest.raises(ValueError, match="1 pictures but media_offset lists 2"):
            model(input_ids=tokens, pixel_values=make_pixels(1))
        return
    with pytest.raises(ValueError, match="by 2 negative ids at token 1, but each has 5"):
        model(input_ids=tokens, pixel_values=make_pixels(1))


def gradients(model, ids, media):
    model.zero_grad()
    model(input_ids=ids[None], labels=ids[None], **media).loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters()}


def test_gradient_checkpointing_changes_no_gradient():
    ids, offsets = make_prompt([3, 4])
    media = {"pixel_values": make_pixels(1), "media_offset": [offsets]}
    for family in FAMILIES:
        model = tiny_model(family).train()
        if family == "owl1":
            for layer in model.abstractor.encoder.layers:
                layer.crossattention.attention.dropout = 0.0
        expected = gradients(model, ids, media)

        model.gradient_checkpointing_enable()
        found = gradients(model, ids, media)

        assert set(found) == set(expected)
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_the_media_copies_get_a_zero_gradient_from_text_alone():
    model = tiny_model("owl2").train()
    ids, _ = make_prompt([6])

    model(input_ids=ids[None], labels=ids[None]).loss.backward()

    copies = {name: each.grad for name, each in model.named_parameters() if ".multiway." in name}
    assert all(bool((each != 0).any()) == (".multiway.0." in n) for n, each in copies.items())


def test_media_go_through_copies_of_their_own():
    """A change of the second copy changes rows with pictures, and no row of text."""
    model, other = tiny_model("owl2"), tiny_model("owl2")
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if ".multiway.1." in name:
                parameter += 0.1
    ids, offsets = make_prompt([3, 4])
    media = {"pixel_values": make_pixels(1), "media_offset": [offsets]}

    text = [each(input_ids=ids[None]).logits for each in (model, other)]
    torch.testing.assert_close(*text, rtol=0, atol=0)
    with_media = [each(input_ids=ids[None], **media).logits[0] for each in (model, other)]
    torch.testing.assert_close(with_media[0][:3], with_media[1][:3])
    assert (with_media[0] - with_media[1])[3:].abs().min() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_loads_again(tmp_path, family):
    save_folder(family, tmp_path)
    model = tiny_model(family)

    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is type(model)
        for name, parameter in model.named_parameters():
            assert torch.equal(loaded.get_parameter(name), parameter)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.tower, config.abstractor) == (model.config.tower, model.config.abstractor)
    assert loaded.config.keys_per_picture == KEYS


@pytest.mark.parametrize("family", FAMILIES)
def test_constants_of_old_folders_are_tolerated_and_a_missing_tensor_is_not(tmp_path, family):
    save_folder(family, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    prefix, abstractor = {
        "owl1": ("language_model.model", "abstractor"),
        "owl2": ("model", "model.visual_abstractor"),
    }[family]
    layer = f"{abstractor}.encoder.layers.0.crossattention.attention"
    weights[f"{layer}.q_pos_embed"] = torch.zeros(KEYS - 1, 16)
    weights[f"{layer}.k_pos_embed"] = torch.zeros(5, 16)
    weights[f"{prefix}.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})

    _, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]

    del weights[f"{abstractor}.vit_eos"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of the tensors .*vit_eos"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_config_without_visual_config_has_the_published_sizes():
    from owl.hf import Owl2Config

    config = Owl2Config()

    assert config.visual_config["visual_model"]["image_size"] == 448
    assert config.keys_per_picture == 65
    assert config.fit == "stretch"
    config.check()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("tower", {"hidden_act": "gelu"}, "hidden_act='gelu' must be 'quick_gelu'"),
        ("tower", {"num_attention_heads": 3}, "num_attention_heads=3 must divide"),
        ("tower", {"image_size": 0}, "image_size=0 must be a whole number"),
        ("abstractor", {"add_v2t_pos_emb": True}, "add_v2t_pos_emb=True must be False"),
        ("abstractor", {"grid_size": 3}, "grid_size=3 must be image_size / patch_size = 2"),
        ("abstractor", {"encoder_hidden_size": 8}, "encoder_hidden_size=8 must be the tower"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_that_asks_for_something_else_is_an_error(family, part, change, message):
    config = tiny_config(family)
    if family == "owl1":
        name = {"tower": "vision_config", "abstractor": "visual_abstractor_config"}[part]
        values = getattr(config, name)
        (values if isinstance(values, dict) else vars(values)).update(change)
    else:
        name = {"tower": "visual_model", "abstractor": "visual_abstractor"}[part]
        config.visual_config[name].update(change)

    with pytest.raises(ValueError, match=message):
        type(tiny_model(family))(config)


def test_the_multilingual_model_is_refused():
    from owl.hf import Owl1Config

    with pytest.raises(ValueError, match="model_type='bloom' must be 'llama'"):
        Owl1Config(text_config={"model_type": "bloom"}).check()
