# SPDX-License-Identifier: Apache-2.0
"""owl.hf computes what the published code computed, and what the training model computes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from owl.config.run import DeviceKind, ParallelConfig, Precision
from owl.data.collate import collate
from owl.data.samples import EncodedSample
from owl.families.owl3.config import FusionKind
from owl.families.owl3.published import entries
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model
from owl.parity.golden_hf import run_golden_hf
from tests.parity.hf_twin import twin_of
from tests.tiny_run import tiny_model

GOLDEN = Path(__file__).parents[1] / "golden"

# Lengths and first placeholders: pictures apart, text only, adjacent, at the start, at the end.
SAMPLES = [(23, [4, 13]), (9, []), (19, [3, 8]), (11, [0]), (12, [11])]


OWL3 = ("vision_hidden_m2", "image_embeds")
SPLICED = ("vision_output", "abstractor_output")


@pytest.mark.parametrize(
    ("folder", "features"),
    [("240728", OWL3), ("241014", OWL3), ("241101", OWL3), ("owl2", SPLICED), ("owl1", SPLICED)],
)
def test_every_case_is_within_tolerance(folder, features, capsys):
    run_golden_hf(GOLDEN / folder)

    message = capsys.readouterr().out
    for quantity in ("logits", *features, "loss", "gradients"):
        assert quantity in message
    assert "OUTSIDE" not in message


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("240728", "language_model.model.layers.2.self_attn.v_kv_proj.weight"),
        ("240728", "vision_model.encoder.layers.1.mlp.fc2.weight"),
        ("240728", "vision2text_model.weight"),
        ("owl2", "model.layers.3.self_attn.v_proj.multiway.1.weight"),
        ("owl2", "model.visual_abstractor.encoder.layers.0.crossattention.output.mlp.w3.bias"),
        ("owl1", "query_tokens"),
    ],
)
def test_a_weight_that_is_slightly_off_is_caught(tmp_path, folder, name):
    for file in (GOLDEN / folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights[name] *= 1.001
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})

    with pytest.raises(SystemExit) as stopped:
        run_golden_hf(tmp_path)

    assert stopped.value.code == 1


def test_the_command_line_knows_owl_hf(monkeypatch, capsys):
    from owl.parity.__main__ import main

    monkeypatch.setattr("sys.argv", ["parity", "golden", "nowhere", "--implementation", "hf"])

    with pytest.raises(SystemExit) as stopped:
        main()

    assert "nowhere/config.json does not exist" in str(stopped.value.code)


@pytest.fixture(scope="module")
def groups():
    with process_groups(ParallelConfig(device=DeviceKind.cpu), alone=True) as groups:
        yield groups


@pytest.fixture(params=[*FusionKind, "tied"], ids=str)
def pair(request, groups):
    """A training model and its twin for transformers."""
    tied = request.param == "tied"
    fusion = FusionKind.static_gate if tied else request.param
    config = tiny_model(fusion, tie_word_embeddings=tied)
    torch.manual_seed(0)
    (chunk,) = build_model(config, ParallelConfig(), Precision.fp32, groups)
    for parameter in chunk.parameters():  # gates and biases away from zero, where faults would hide
        torch.nn.init.normal_(parameter, std=0.2)
    return chunk, twin_of(chunk, config), config


def make_samples() -> list[EncodedSample]:
    generator = torch.Generator().manual_seed(0)
    return [
        EncodedSample(
            key=f"sample{index}",
            source="test",
            tokens=torch.randint(0, 256, (length,), generator=generator),
            loss_weights=torch.ones(length),
            positions=torch.arange(length),
            tiles=torch.randint(
                0, 256, (len(offsets), 3, 28, 28), generator=generator, dtype=torch.uint8
            ),
            media_offset=offsets,
        )
        for index, (length, offsets) in enumerate(SAMPLES)
    ]


@torch.no_grad()
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_padded_batch_gives_the_logits_of_a_pack(pair, padding_side):
    chunk, twin, _ = pair
    samples = make_samples()
    packed = chunk(collate(samples), return_logits=True)

    longest = max(sample.num_tokens for sample in samples)
    tokens = torch.zeros(len(samples), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, sample in enumerate(samples):
        real = slice(0, sample.num_tokens)
        if padding_side == "left":
            real = slice(longest - sample.num_tokens, longest)
        tokens[row, real], mask[row, real] = sample.tokens, 1
    padded = twin(
        input_ids=tokens,
        attention_mask=mask,
        pixel_values=torch.cat([sample.tiles for sample in samples]),
        media_offset=[sample.media_offset for sample in samples],
    ).logits

    torch.testing.assert_close(padded[mask.bool()], packed, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("index", range(len(SAMPLES)))
def test_a_single_sample_gives_the_same_logits(pair, index):
    chunk, twin, _ = pair
    sample = make_samples()[index]

    ours = chunk(collate([sample]), return_logits=True)
    theirs = twin(
        input_ids=sample.tokens[None],
        pixel_values=sample.tiles,
        media_offset=[sample.media_offset],
    ).logits[0]

    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_losses_and_gradients_agree_with_the_training_model(pair):
    chunk, twin, config = pair
    sample = make_samples()[0]
    twin.zero_grad()
    chunk.zero_grad(set_to_none=True)

    loss = chunk(collate([sample])).sum() / (sample.num_tokens - 1)
    loss.backward()
    theirs = twin(
        input_ids=sample.tokens[None],
        labels=sample.tokens[None],
        pixel_values=sample.tiles,
        media_offset=[sample.media_offset],
    ).loss
    theirs.backward()

    torch.testing.assert_close(theirs, loss, rtol=1e-5, atol=0)
    gradients = {name: each.grad for name, each in twin.named_parameters()}
    mine = dict(chunk.named_parameters())
    for entry in entries(config):
        whole = entry.to_published(mine[entry.ours].grad)
        for name, gradient in zip(entry.published, whole, strict=True):
            torch.testing.assert_close(
                gradients[name], gradient[: len(gradients[name])], rtol=1e-3, atol=1e-5
            )
