# SPDX-License-Identifier: Apache-2.0
"""A starting checkpoint computes what the Qwen2 and the SigLIP it was made from compute."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from owl.checkpoint.load import load_model_config, load_weights
from owl.config.run import DeviceKind, ParallelConfig, Precision
from owl.convert.init import init_checkpoint
from owl.convert.start import InitOptions
from owl.errors import CheckpointError
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model
from tests.unit.model.packs import make_pack

OPTIONS = InitOptions(variant="240728", layer_indices=[1, 3], vocab_size=61)
LAYERS, HEADS, KV_HEADS, ROWS = 4, 4, 2, 64
CARRIED = "carried.safetensors"


def shaken(model: nn.Module) -> nn.Module:
    """Move every weight away from zero and one, where faults would hide."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def qwen2() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=ROWS,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    return shaken(Qwen2ForCausalLM(config))


@pytest.fixture(scope="module")
def siglip() -> SiglipVisionModel:
    config = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=30,
        patch_size=14,
    )
    return shaken(SiglipVisionModel(config))


@pytest.fixture(scope="module")
def folders(qwen2, siglip, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("published")
    qwen2.save_pretrained(folder / "qwen2", max_shard_size="40KB")
    siglip.save_pretrained(folder / "siglip")
    return folder / "qwen2", folder / "siglip"


@pytest.fixture(scope="module")
def checkpoint(folders, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("init") / "start"
    init_checkpoint(*folders, output, OPTIONS)
    return output


@pytest.fixture(scope="module")
def model(checkpoint) -> Iterator[nn.Module]:
    config = load_model_config(checkpoint)
    with process_groups(ParallelConfig(device=DeviceKind.cpu), alone=True) as groups:
        chunks = build_model(config, ParallelConfig(), Precision.fp32, groups)
        load_weights(checkpoint, chunks, config, groups)
        yield chunks[0]


# The tests that load come after those that convert: a process can be in one job at a time.


def test_the_language_model_is_saved_in_several_files(folders):
    assert len(list(folders[0].glob("model-*.safetensors"))) > 1


def test_a_missing_tensor_is_named(folders, tmp_path):
    language, vision = folders
    broken = tmp_path / "siglip"
    broken.mkdir()
    (broken / "config.json").write_bytes((vision / "config.json").read_bytes())
    tensors = load_file(vision / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("layers.1.mlp.fc2.bias"))
    save_file({n: t for n, t in tensors.items() if n != lost}, broken / "model.safetensors")

    with pytest.raises(CheckpointError, match=f"has no tensor {lost}"):
        init_checkpoint(language, broken, tmp_path / "start", OPTIONS)
    assert not (tmp_path / "start").exists()


def test_more_rows_than_the_embedding_has_are_refused(folders, tmp_path):
    options = InitOptions(variant="240728", layer_indices=[1], vocab_size=ROWS + 1)

    with pytest.raises(CheckpointError, match=f"Give at most {ROWS}"):
        init_checkpoint(*folders, tmp_path / "start", options)


def test_layers_that_do_not_exist_are_refused_before_anything_is_written(folders, tmp_path):
    options = InitOptions(variant="240728", layer_indices=[99])

    with pytest.raises(CheckpointError, match="layer_indices"):
        init_checkpoint(*folders, tmp_path / "start", options)
    assert not (tmp_path / "start").exists()


def test_what_influences_no_output_is_carried_bit_for_bit(checkpoint, siglip):
    carried = load_file(checkpoint / CARRIED)

    state = {f"vision_model.{n.removeprefix('vision_model.')}": t
             for n, t in siglip.state_dict().items()}  # fmt: skip
    assert "vision_model.encoder.layers.2.mlp.fc1.weight" in carried
    assert "vision_model.head.probe" in carried
    assert all(torch.equal(tensor, state[name]) for name, tensor in carried.items())
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_the_checkpoint_tells_its_architecture(checkpoint):
    config = load_model_config(checkpoint)

    assert (config.vocab_size, config.hyper_attention.layer_indices) == (61, [1, 3])
    assert (config.hidden_size, config.num_kv_heads) == (32, KV_HEADS)
    assert config.vision_tower.image_size == 30


def test_text_alone_has_the_logits_of_qwen2(model, qwen2):
    batch = make_pack([(9, []), (5, [])], image_size=30, vocab_size=61)

    logits = model(batch, return_logits=True)

    samples = batch.tokens.split(batch.seqlens)
    expected = torch.cat([qwen2(sample[None]).logits[0, :, :61] for sample in samples])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_the_vocabulary_is_cut_to_the_first_rows(model, qwen2):
    assert torch.equal(
        model.embedding.word_embeddings.weight, qwen2.get_input_embeddings().weight[:61]
    )
    assert torch.equal(model.output_layer.weight, qwen2.lm_head.weight[:61])


def test_tower_features_are_those_of_siglip(model, siglip):
    pixel_values = torch.randn(2, 3, 30, 30)

    features = model.vision_tower(pixel_values)

    expected = siglip(pixel_values, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("index", OPTIONS.layer_indices)
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_media_keys_and_values_start_as_the_layers_own(model, qwen2, index, part):
    ours = getattr(model.decoder.layers[index].self_attention.linear_media_kv, part)
    theirs = qwen2.model.layers[index].self_attn

    by_head = ours.unflatten(0, (KV_HEADS, 2, -1))  # [k, 2, d, ..]

    assert torch.equal(by_head[:, 0].flatten(0, 1), getattr(theirs.k_proj, part))
    assert torch.equal(by_head[:, 1].flatten(0, 1), getattr(theirs.v_proj, part))


def test_other_layers_have_no_media_projection(model):
    has = [hasattr(layer.self_attention, "linear_media_kv") for layer in model.decoder.layers]

    assert has == [False, True, False, True]


def test_a_language_model_with_stretched_positions_is_refused(folders, tmp_path):
    qwen2, siglip = folders
    stretched = Path(shutil.copytree(qwen2, tmp_path / "qwen2"))
    config = json.loads((stretched / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}
    (stretched / "config.json").write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match=r"rope_parameters=.*yarn"):
        init_checkpoint(stretched, siglip, tmp_path / "start", OPTIONS)


def test_a_language_model_that_is_none_is_refused(folders, tmp_path):
    _, siglip = folders
    with pytest.raises(CheckpointError, match="lacks num_key_value_heads, vocab_size"):
        init_checkpoint(siglip, siglip, tmp_path / "start", OPTIONS)
