# SPDX-License-Identifier: Apache-2.0
"""A start from LLaMA and CLIP computes what the two compute, in both families."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from owl.checkpoint.load import load_model_config, load_weights
from owl.config.run import AbstractorConfig, DeviceKind, FamilyKind, ParallelConfig, Precision
from owl.convert.init import init_checkpoint
from owl.convert.start import InitOptions
from owl.errors import CheckpointError
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model
from owl.model.tower.position_table import resize_positions
from tests.unit.model.packs import make_pack

VARIANTS = {FamilyKind.owl2: "owl2-llama2-7b", FamilyKind.owl1: "owl1-llama-7b"}
SIZES = AbstractorConfig(num_queries=3, num_layers=1, num_attention_heads=2, ffn_hidden_size=24)
ON_CPU = ParallelConfig(device=DeviceKind.cpu)


def shaken(model: nn.Module) -> nn.Module:
    """Move every weight away from zero and one, where faults would hide."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    return shaken(
        LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=64,
                rms_norm_eps=1e-6,
            )
        )
    )


@pytest.fixture(scope="module")
def clip() -> CLIPVisionModel:
    return shaken(
        CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=28,
                patch_size=14,
                layer_norm_eps=1e-6,
            )
        )
    )


@pytest.fixture(scope="module")
def folders(llama, clip, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("parts")
    llama.save_pretrained(folder / "llama", max_shard_size="40KB")
    clip.save_pretrained(folder / "clip")
    return folder / "llama", folder / "clip"


def options(family: FamilyKind, **changes) -> InitOptions:
    return InitOptions(variant=VARIANTS[family], vocab_size=61, abstractor=SIZES, **changes)


@pytest.fixture(scope="module", params=VARIANTS)
def checkpoint(folders, request, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("init") / "start"
    init_checkpoint(*folders, output, options(request.param))
    return output


@pytest.fixture
def model(checkpoint) -> Iterator[nn.Module]:
    config = load_model_config(checkpoint)
    with process_groups(ON_CPU, alone=True) as groups:
        chunks = build_model(config, ON_CPU, Precision.fp32, groups)
        load_weights(checkpoint, chunks, config, groups)
        yield chunks[0].eval()


def test_text_alone_has_the_logits_of_llama(model, llama):
    batch = make_pack([(9, []), (5, [])], vocab_size=61)
    logits = model(batch, return_logits=True)
    samples = batch.tokens.split(batch.seqlens)
    expected = torch.cat([llama(sample[None]).logits[0, :, :61] for sample in samples])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_tower_features_are_those_of_clip_after_its_last_norm(model, clip):
    pixel_values = torch.randn(2, 3, 28, 28)
    features = model.vision_tower(pixel_values)
    vision = getattr(clip, "vision_model", clip)
    expected = vision.post_layernorm(clip(pixel_values).last_hidden_state)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_the_media_copies_are_the_texts_own(model, llama):
    if not hasattr(model.decoder.layers[0].self_attention, "linear_media_kv"):
        pytest.skip("this family has one copy of everything")
    for layer, theirs in zip(model.decoder.layers, llama.model.layers, strict=True):
        norm = layer.input_layernorm
        assert torch.equal(norm.text.weight, norm.media.weight)
        by_head = layer.self_attention.linear_media_kv.weight.unflatten(0, (2, 2, -1))
        assert torch.equal(by_head[:, 0].flatten(0, 1), theirs.self_attn.k_proj.weight)
        assert torch.equal(by_head[:, 1].flatten(0, 1), theirs.self_attn.v_proj.weight)


@pytest.mark.parametrize("family", VARIANTS)
def test_a_checkpoint_of_other_pictures_can_be_made_and_trained_on(family, folders, tmp_path):
    small = init_checkpoint(*folders, tmp_path / "small", options(family))
    large = init_checkpoint(*folders, tmp_path / "large", options(family, image_size=56))
    assert (small.vision_tower.image_size, large.vision_tower.image_size) == (28, 56)
    with process_groups(ON_CPU, alone=True) as groups:
        tables = []
        for path, config in (("small", small), ("large", large), ("small", large)):
            (chunk,) = build_model(config, ON_CPU, Precision.fp32, groups)
            load_weights(tmp_path / path, [chunk], config, groups)
            tables.append(chunk.vision_tower.position_embedding.detach())
    resized = resize_positions(tables[0], class_tokens=1, side=4)
    assert torch.equal(tables[1], resized)  # resized by init
    assert torch.equal(tables[2], resized)  # resized by a stage that starts from the small one


@pytest.mark.parametrize("family", VARIANTS)
def test_a_folder_of_another_kind_is_refused_by_name(family, folders, tmp_path):
    llama, clip = folders
    with pytest.raises(CheckpointError, match=r"--language-model .*clip_vision_model"):
        init_checkpoint(clip, clip, tmp_path / "start", options(family))
    with pytest.raises(CheckpointError, match=r"--vision-model .*llama"):
        init_checkpoint(llama, llama, tmp_path / "start", options(family))
    scaled = Path(shutil.copytree(llama, tmp_path / "scaled"))
    config = json.loads((scaled / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 1e4}
    (scaled / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="llama3 rotary positions"):
        init_checkpoint(scaled, clip, tmp_path / "start", options(family))
    assert not (tmp_path / "start").exists()
