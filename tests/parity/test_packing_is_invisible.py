# SPDX-License-Identifier: Apache-2.0
"""A sample's losses and gradients are its own, whatever it is packed with."""

import pytest
import torch

from owl.config.run import AttentionKind, DeviceKind, ParallelConfig, Precision
from owl.data.collate import collate
from owl.data.samples import EncodedSample
from owl.families.owl3.config import FusionKind
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model
from tests.tiny_run import tiny_model

# Lengths and first placeholder tokens of the samples of one pack: two pictures apart, text only,
# adjacent pictures (five tokens each), a picture first, one whose placeholder ends the sample.
SAMPLES = [(23, [4, 13]), (9, []), (19, [3, 8]), (11, [0]), (12, [7])]


@pytest.fixture(scope="module")
def groups():
    with process_groups(ParallelConfig(device=DeviceKind.cpu), alone=True) as groups:
        yield groups


@pytest.fixture(params=list(FusionKind), ids=str)
def config(request):
    return tiny_model(request.param, attention=AttentionKind.per_sample)


@pytest.fixture
def model(config, groups):
    torch.manual_seed(0)
    (chunk,) = build_model(config, ParallelConfig(), Precision.fp64, groups)
    for parameter in chunk.parameters():  # gates and biases away from zero, where faults would hide
        torch.nn.init.normal_(parameter, std=0.2)
    return chunk


def make_sample(seed: int, length: int, offsets: list[int]) -> EncodedSample:
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.randint(0, 256, (len(offsets), 3, 28, 28), generator=generator)
    return EncodedSample(
        key=f"sample{seed}",
        source="test",
        tokens=torch.randint(0, 256, (length,), generator=generator),
        loss_weights=torch.ones(length),
        positions=torch.arange(length),
        tiles=tiles.to(torch.uint8),
        media_offset=offsets,
    )


def samples(seed: int) -> list[EncodedSample]:
    return [make_sample(seed + i, length, offsets) for i, (length, offsets) in enumerate(SAMPLES)]


def losses_in(model, config, pack: list[EncodedSample], index: int) -> torch.Tensor:
    """Per-token losses of one sample of a pack."""
    losses = model(collate(pack))
    return losses.split([sample.num_tokens for sample in pack])[index]


@pytest.mark.parametrize("index", range(len(SAMPLES)))
def test_losses_and_gradients_are_the_same_alone_and_packed(model, config, index):
    pack = samples(seed=0)

    packed = losses_in(model, config, pack, index)
    packed_gradients = torch.autograd.grad(packed.sum(), list(model.parameters()))
    alone = losses_in(model, config, [pack[index]], 0)
    alone_gradients = torch.autograd.grad(alone.sum(), list(model.parameters()))

    assert packed.dtype == torch.float64
    assert alone.abs().sum() > 0
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-11)
    for mine, reference in zip(packed_gradients, alone_gradients, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("index", range(len(SAMPLES)))
def test_neighbours_of_noise_change_no_bit(model, config, index):
    pack, noise = samples(seed=0), samples(seed=100)
    among_noise = [*noise[:index], pack[index], *noise[index + 1 :]]

    expected = losses_in(model, config, pack, index)
    actual = losses_in(model, config, among_noise, index)

    assert torch.equal(actual, expected)


def test_reference_attention_agrees_on_the_whole_pack(model, config, groups):
    import dataclasses

    reference = dataclasses.replace(config, attention=AttentionKind.reference)
    (other,) = build_model(reference, ParallelConfig(), Precision.fp64, groups)
    other.load_state_dict(model.state_dict())
    batch = collate(samples(seed=0))

    torch.testing.assert_close(model(batch), other(batch), rtol=1e-11, atol=1e-11)
