# SPDX-License-Identifier: Apache-2.0
"""Loading, saving and training an owl.hf model through transformers' own interface."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
)

from owl.config.run import ProjectorKind
from owl.families.owl3.config import FusionKind
from owl.families.owl3.limits_owl3 import CHOICES
from owl.families.owl3.variants_owl3 import VARIANTS
from owl.hf import Owl3Config, Owl3ForConditionalGeneration, Owl3Processor
from tests.unit.families.owl3.hf.conftest import build
from tests.unit.families.owl3.hf.tiny_owl3 import tiny_config

UNSAID = ("fusion", "projector", "media_position_shift", "template", "carried_vision_parts")
"""Fields that a published config.json lacks."""


V_KV_PROJ = "language_model.model.layers.1.self_attn.v_kv_proj.weight"
GATE = "language_model.model.layers.1.self_attn.gate"
DOWN_PROJ = "language_model.model.layers.2.mlp.down_proj.weight"


def inputs(tokens: int = 20) -> dict:
    torch.manual_seed(1)
    return {
        "input_ids": torch.randint(0, 259, (2, tokens)),
        "pixel_values": torch.rand(3, 3, 28, 28) * 2 - 1,
        "media_offset": [[2, 9], [4]],
    }


def publish(model: Owl3ForConditionalGeneration, folder) -> None:
    """Save as published: config.json does not name the variant."""
    model.save_pretrained(folder)
    hide_variant(folder)


def hide_variant(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if name not in UNSAID})
    )


def test_variants_choose_what_a_config_allows_and_training_builds():
    for variant in VARIANTS.values():
        assert all(getattr(variant, name) in allowed for name, allowed in CHOICES.items())
        FusionKind(variant.fusion), ProjectorKind(variant.projector)  # ValueError if unknown


@pytest.mark.parametrize("fusion", ["token_gate", "static_gate", "joint_softmax"])
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText])
def test_a_published_folder_loads_and_is_saved_as_it_was(fusion, auto, tmp_path):
    model = build(fusion)
    publish(model, tmp_path / "published")

    loaded = auto.from_pretrained(tmp_path / "published")
    loaded.save_pretrained(tmp_path / "again")

    assert type(loaded) is Owl3ForConditionalGeneration
    assert loaded.config.fusion == fusion
    assert loaded.config.template == VARIANTS[_variant(fusion)].template
    before = load_file(tmp_path / "published" / "model.safetensors")
    after = load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    assert ("language_model.lm_head.weight" in before) == (fusion != "static_gate")
    assert "vision_model.head.probe" in before
    for name, weight in before.items():
        assert torch.equal(after[name], weight), name
    torch.testing.assert_close(loaded(**inputs()).logits, model(**inputs()).logits)


def _variant(fusion: str) -> str:
    return next(name for name, chosen in VARIANTS.items() if chosen.fusion == fusion)


def test_parts_that_a_checkpoint_lacks_are_not_created(tmp_path):
    publish(build("joint_softmax"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {
        name: weight
        for name, weight in weights.items()
        if not name.startswith(("vision_model.head.", "vision_model.encoder.layers.2."))
    }
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})

    loaded = Owl3ForConditionalGeneration.from_pretrained(tmp_path)

    assert loaded.config.carried_vision_parts == ["post_layernorm"]
    assert set(loaded.state_dict()) == set(kept)


def test_the_variant_of_a_folder_in_shards_is_read_from_its_index(tmp_path):
    model = build("token_gate")
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    hide_variant(tmp_path)

    assert not (tmp_path / "model.safetensors").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**inputs()).logits, model(**inputs()).logits)


def test_auto_classes_give_our_config_and_processor(folder):
    assert type(AutoConfig.from_pretrained(folder)) is Owl3Config
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor) is Owl3Processor
    assert processor.image_size == 28


def test_init_processor_gives_what_the_folder_gives(folder, processor):
    model = Owl3ForConditionalGeneration.from_pretrained(folder)
    made = model.init_processor(processor.tokenizer)
    assert (made.image_size, made.template) == (processor.image_size, processor.template)


def test_a_saved_config_names_every_size_and_comes_back(tmp_path):
    config = tiny_config("static_gate")
    config.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    assert {"rope_theta", "hyper_layers", "hidden_size", "tie_word_embeddings"} <= set(said)
    assert {"hidden_size", "image_size", "patch_size"} <= set(said["vision_config"])
    again = Owl3Config.from_pretrained(tmp_path)
    for name in (*UNSAID, "hyper_layers", "rope_theta", "tie_word_embeddings", "vocab_size"):
        assert getattr(again, name) == getattr(config, name), name
    assert again.vision_config.image_size == 28


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hyper_layers": None}, "hyper_layers=None must list the decoder layers"),
        ({"hyper_layers": [0, 2]}, r"must be in 1\.\.4"),
        ({"hyper_layers": [5]}, r"must be in 1\.\.4"),
        ({"fusion": None}, "are not all set"),
        ({"fusion": "sum"}, "fusion='sum'"),
        ({"projector": "conv"}, "projector='conv'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_size": "32"}, "hidden_size='32' must be a whole number"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 must divide hidden_size=32"),
        ({"head_dim": 16}, r"head_dim=16 must be hidden_size / num_attention_heads = 8"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' must be 'silu'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling=.*yarn"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling=.*linear"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling=.*yarn"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"vision_config": {"hidden_act": "relu"}}, "vision_config.hidden_act='relu'"),
    ],
)
def test_a_config_without_a_model_is_one_clear_error(changes, message):
    with pytest.raises(ValueError, match=message):
        Owl3ForConditionalGeneration(tiny_config(**changes))


def test_values_equal_to_the_default_are_no_error():
    rotary = {"rope_type": "default", "rope_theta": 5e5}
    config = tiny_config(rope_parameters=rotary, head_dim=8, rope_scaling=None, hidden_act="silu")
    config.check()
    assert (config.rope_theta, config.head_dim) == (5e5, 8)


@pytest.mark.parametrize(
    ("fusion", "change", "message"),
    [
        ("token_gate", {V_KV_PROJ: None}, f"missing: {V_KV_PROJ}"),
        ("joint_softmax", {DOWN_PROJ: None}, f"missing: {DOWN_PROJ}"),
        ("joint_softmax", {GATE: torch.zeros(32)}, f"without a place: {GATE}"),
    ],
)
def test_weights_that_the_config_does_not_describe_are_named(fusion, change, message, tmp_path):
    build(fusion).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name, tensor in change.items():
        weights.pop(name, None)
        if tensor is not None:
            weights[name] = tensor
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})

    with pytest.raises(ValueError, match=message):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_loading_info_is_returned_on_request(folder):
    _, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]


def test_weights_of_another_architecture_are_one_clear_error(tmp_path):
    publish(build("joint_softmax"), tmp_path)
    save_file({"model.embed_tokens.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not an mPLUG-Owl3's"):
        Owl3ForConditionalGeneration.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor"):
        Owl3ForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("fusion", ["token_gate", "static_gate", "joint_softmax"])
def test_gradients_reach_every_part_that_is_used(fusion):
    model = build(fusion).train()
    batch = inputs()
    loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        carried = name.startswith(
            ("vision_model.encoder.layers.2", "vision_model.post", "vision_model.head")
        )
        has_gradient = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert has_gradient != carried, name


@pytest.mark.parametrize("how", [None, {"use_reentrant": False}, {"determinism_check": "none"}])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_gradient_checkpointing_changes_no_gradient(how, is_frozen):
    model, batch = build("joint_softmax").train(), inputs()
    if is_frozen:
        model.requires_grad_(False).vision2text_model.requires_grad_(True)
    expected = torch.autograd.grad(
        model(**batch, labels=batch["input_ids"]).loss, model.vision2text_model[0].weight
    )
    model.gradient_checkpointing_enable(how)
    actual = torch.autograd.grad(
        model(**batch, labels=batch["input_ids"]).loss, model.vision2text_model[0].weight
    )
    torch.testing.assert_close(actual, expected)


def test_checkpointing_that_loses_gradients_is_refused():
    with pytest.raises(ValueError, match="use_reentrant=True loses the gradients"):
        build("joint_softmax").gradient_checkpointing_enable({"use_reentrant": True})


def test_the_loss_is_the_mean_over_labels_or_over_what_the_trainer_counts(model):
    batch = inputs()
    batch["pixel_values"] = batch["pixel_values"].double()
    labels = batch["input_ids"].clone()
    labels[0, :15] = -100
    output = model(**batch, labels=labels)
    shifted = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    torch.testing.assert_close(output.loss, shifted)
    counted = model(**batch, labels=labels, num_items_in_batch=100).loss
    torch.testing.assert_close(counted, shifted * 24 / 100)


def test_labels_without_a_learned_token_give_zero(model):
    tokens = torch.zeros(1, 4, dtype=torch.long)
    assert float(model(input_ids=tokens, labels=torch.full_like(tokens, -100)).loss) == 0


def test_bytes_are_normalised_like_floats():
    model, batch = build("joint_softmax"), inputs()
    pixels = torch.randint(0, 256, (3, 3, 28, 28), dtype=torch.uint8)
    floats = (pixels.float() / 255 - 0.5) / 0.5
    of_bytes = model(**batch | {"pixel_values": pixels}).logits
    torch.testing.assert_close(of_bytes, model(**batch | {"pixel_values": floats}).logits)


def old_ranges(offsets: list[list[int]], tokens: int) -> torch.Tensor:
    """Write positions as 240728 does: [first tile, tiles before each token + first tile]."""
    rows, first = [], 0
    for sample in offsets:
        if sample:
            seen = [first + sum(offset < token for offset in sample) for token in range(tokens)]
            rows.append([[first, count] for count in seen])
        else:
            rows.append([[0, -1000000 + first]] * tokens)
        first += len(sample)
    return torch.tensor(rows)


def test_the_older_form_of_media_offset_means_the_same(model):
    torch.manual_seed(2)
    offsets = [[8, 13], [], [12]]
    batch = {
        "input_ids": torch.randint(0, 259, (3, 30)),
        "pixel_values": torch.rand(3, 3, 28, 28, dtype=torch.float64),
    }
    positions = model(**batch, media_offset=offsets).logits
    ranges = model(**batch, media_offset=old_ranges(offsets, 30)).logits
    assert torch.equal(positions, ranges)


def test_the_older_form_of_media_offset_counts_padding(model):
    tokens = torch.randint(0, 259, (1, 12))
    pixels = torch.rand(1, 3, 28, 28, dtype=torch.float64)
    alone = model(input_ids=tokens, pixel_values=pixels, media_offset=[[4]]).logits
    padded = model(
        input_ids=torch.nn.functional.pad(tokens, (3, 0)),
        attention_mask=torch.tensor([[0] * 3 + [1] * 12]),
        pixel_values=pixels,
        media_offset=old_ranges([[7]], 15),
    ).logits
    torch.testing.assert_close(padded[:, 3:], alone, rtol=0, atol=1e-10)


def test_neighbours_in_a_batch_change_nothing(model):
    torch.manual_seed(3)
    tokens = torch.randint(0, 259, (3, 16))
    pixels = torch.rand(4, 3, 28, 28, dtype=torch.float64)
    offsets = [[1, 6], [], [15, 15]]
    batch = model(input_ids=tokens, pixel_values=pixels, media_offset=offsets).logits
    for row, tiles in ((0, pixels[:2]), (1, None), (2, pixels[2:])):
        alone = model(
            input_ids=tokens[row : row + 1], pixel_values=tiles, media_offset=[offsets[row]]
        ).logits
        torch.testing.assert_close(batch[row : row + 1], alone, rtol=0, atol=1e-10)
    assert torch.isfinite(batch).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"media_offset": None}, "came without media_offset"),
        ({"pixel_values": None}, "media_offset lists tiles but none came"),
        ({"image_embeds": torch.ones(3, 4, 32)}, "pixel_values and image_embeds came together"),
        ({"position_ids": torch.zeros(2, 3).long()}, r"position_ids is \[2, 3\]: it must be"),
        ({"media_offset": [[2], [4]]}, "holds 3 tiles but media_offset lists 2"),
        ({"media_offset": [[2], [9], [4]]}, "lists 3 samples for 2 rows"),
        ({"attention_mask": torch.ones(2, 3)}, r"must be \[2, 20\]"),
        ({"input_ids": None}, "exactly one of input_ids and inputs_embeds"),
        ({"labels": torch.zeros(2, 20).long(), "logits_to_keep": 1}, "labels need all logits"),
    ],
)
def test_inputs_that_do_not_belong_together_are_one_clear_error(changes, message):
    with pytest.raises(ValueError, match=message):
        build("joint_softmax")(**(inputs() | changes))


def test_hidden_states_are_the_embedding_and_what_each_layer_gives(model):
    tokens = torch.randint(0, 259, (1, 5))
    states = model(input_ids=tokens, output_hidden_states=True).hidden_states
    assert len(states) == model.config.num_hidden_layers + 1
    assert torch.equal(states[0], model.get_input_embeddings()(tokens))


def test_weights_that_end_too_early_are_named(tmp_path):
    publish(build("token_gate"), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a complete safetensors file"):
        Owl3ForConditionalGeneration.from_pretrained(tmp_path)


def test_another_architecture_is_refused(tmp_path):
    build("token_gate").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    with pytest.raises(ValueError, match="holds a 'qwen2', not a 'mplugowl3'"):
        Owl3ForConditionalGeneration.from_pretrained(tmp_path)


def test_a_device_map_places_the_model(folder):
    pytest.importorskip("accelerate")
    one = AutoModelForCausalLM.from_pretrained(folder)
    parts = dict.fromkeys(["vision_model", "vision2text_model", "language_model"], "cpu")
    for device_map in ("auto", parts):
        other = AutoModelForCausalLM.from_pretrained(folder, device_map=device_map)
        assert torch.equal(other(**inputs()).logits, one(**inputs()).logits)


PLACES = [
    "vision_model",
    "vision2text_model",
    "language_model.model.embed_tokens",
    "language_model.model.layers",
    "language_model.model.norm",
    "language_model.lm_head",
]


@pytest.mark.parametrize("fusion", ["token_gate", "static_gate", "joint_softmax"])
@pytest.mark.parametrize("offloaded", ["vision_model", "language_model.model.layers"])
def test_weights_on_disk_compute_the_same(fusion, offloaded, tmp_path):
    pytest.importorskip("accelerate")
    model = build(fusion)
    model.save_pretrained(tmp_path / "owl3")

    other = AutoModelForCausalLM.from_pretrained(
        tmp_path / "owl3",
        device_map=dict.fromkeys(PLACES, "cpu") | {offloaded: "disk"},
        offload_folder=str(tmp_path / "offloaded"),
    )

    with torch.no_grad():
        assert torch.equal(other(**inputs()).logits, model(**inputs()).logits)


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
WIDE = {  # whole blocks of 64 values, which 4 bit quantises together
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
}


@pytest.mark.parametrize("fusion", ["token_gate", "static_gate", "joint_softmax"])
@pytest.mark.parametrize(("bits", "allowed"), [(8, 0.05), (4, 0.3)])
def test_a_quantised_model_answers_nearly_the_same(tmp_path, fusion, bits, allowed):
    pytest.importorskip("bitsandbytes")
    model = build(fusion, **WIDE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm.weight" not in name:
                parameter.mul_(0.2)
    model.save_pretrained(tmp_path)
    how = {"load_in_8bit": True} if bits == 8 else NF4
    quantised = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**how)
    )

    with torch.no_grad():
        ours, whole = quantised(**inputs()).logits, model(**inputs()).logits

    kept = {name for name, part in quantised.named_modules() if type(part) is torch.nn.Linear}
    assert kept == {"language_model.lm_head"}
    assert 0 < (ours - whole).norm() <= allowed * whole.norm()
