# SPDX-License-Identifier: Apache-2.0
"""Adapters: what they add, to which projection, what they cost, and how they start."""

import math
from contextlib import contextmanager

import pytest
import torch
from megatron.core import tensor_parallel

from owl.config.run import (
    LoraConfig,
    LoraTarget,
    OptimConfig,
    ParallelConfig,
    Precision,
    ProjectorKind,
    Recompute,
    Trainable,
)
from owl.convert.tables.layouts import split_gate_up, split_qkv
from owl.families.owl3.config import FusionKind
from owl.mcore.adapters import add_adapters, has_adapters, merge_adapters
from owl.mcore.optimizer import build_megatron_optimizer, optimizer_config
from owl.mcore.parameters import global_names
from owl.mcore.provider import build_model, wrap_for_training
from owl.model.lora import is_adapter
from tests.tiny_run import tiny_model
from tests.unit.model.packs import PLACES, make_pack

EVERYTHING = LoraConfig(targets=list(LoraTarget), rank=3, alpha=5.0)
FROZEN = Trainable(vision_tower=False, projector=False, language_model=False, fusion=False)
QKV, FC1 = "decoder.layers.1.self_attention.linear_qkv", "decoder.layers.1.mlp.linear_fc1"


@pytest.fixture(scope="module")
def build(alone):
    def build(lora: LoraConfig, *, kind=FusionKind.token_gate, trained=True, **changes):
        """Build a tiny model with adapters; `trained` ones add something."""
        parallel = ParallelConfig(recompute=changes.pop("recompute", Recompute.none))
        (chunk,) = build_model(tiny_model(kind, **changes), parallel, Precision.fp64, alone)
        add_adapters([chunk], lora, seed=7)
        generator = torch.Generator().manual_seed(3)
        for name, parameter in chunk.named_parameters():
            if trained and is_adapter(name):
                parameter.data.normal_(std=0.3, generator=generator)
        return chunk

    return build


@contextmanager
def same_random_states():
    """Set Megatron's random states back at the end, for the next one."""
    tracker = tensor_parallel.get_cuda_rng_tracker()
    states = {name: state.clone() for name, state in tracker.get_states().items()}
    yield
    tracker.set_states(states)


def wrapped(model):
    (chunk,) = wrap_for_training(
        [model], FROZEN, ParallelConfig(), precision=Precision.fp64, distributed_optimizer=False
    )
    chunk.zero_grad_buffer()
    return chunk


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_new_adapters_change_no_bit(build):
    batch = make_pack(PLACES)

    with_adapters = build(EVERYTHING, trained=False)(batch)
    without = build(LoraConfig())(batch)

    assert torch.equal(with_adapters, without)


@pytest.mark.parametrize(
    ("kind", "projector"),
    [
        (FusionKind.token_gate, ProjectorKind.linear),
        (FusionKind.joint_softmax, ProjectorKind.mlp),
        (FusionKind.static_gate, ProjectorKind.abstractor),
    ],
)
def test_merged_weights_compute_the_same(build, kind, projector):
    model, batch = build(EVERYTHING, kind=kind, projector=projector), make_pack(PLACES)
    plain = build(LoraConfig(), kind=kind, projector=projector)(batch, return_logits=True)
    expected = model(batch, return_logits=True)

    merge_adapters([model])

    assert not has_adapters([model])
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(model(batch, return_logits=True), expected, rtol=1e-10, atol=1e-10)


def test_queries_and_values_only_means_exactly_that(build):
    lora = LoraConfig(targets=[LoraTarget.q, LoraTarget.v], rank=2, alpha=3.0)
    model = build(lora, num_attention_heads=8, num_kv_heads=2)
    before = weights(model)
    adapters = [name for name in before if is_adapter(name)]

    merge_adapters([model])

    after = weights(model)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    layers = range(4)
    fused = [f"decoder.layers.{i}.self_attention.linear_qkv" for i in layers]
    assert changed == {f"{path}.weight" for path in fused}
    assert sorted(adapters) == sorted(
        f"{p}.lora.{n}_{m}" for p in fused for n in "qv" for m in "ab"
    )
    old = split_qkv(before[f"{QKV}.weight"], 8, 2)
    new = split_qkv(after[f"{QKV}.weight"], 8, 2)
    for name, was, now in zip("qkv", old, new, strict=True):
        if name == "k":
            assert torch.equal(was, now)
        else:
            a, b = before[f"{QKV}.lora.{name}_a"], before[f"{QKV}.lora.{name}_b"]
            torch.testing.assert_close(now, was + 1.5 * b @ a, rtol=1e-12, atol=1e-12)


def test_gate_and_up_have_their_own_halves(build):
    model = build(LoraConfig(targets=[LoraTarget.up], rank=2, alpha=2.0))
    before = weights(model)

    merge_adapters([model])

    gate, up = split_gate_up(weights(model)[f"{FC1}.weight"])
    old_gate, old_up = split_gate_up(before[f"{FC1}.weight"])
    assert torch.equal(gate, old_gate)
    update = before[f"{FC1}.lora.up_b"] @ before[f"{FC1}.lora.up_a"]
    torch.testing.assert_close(up, old_up + update, rtol=1e-12, atol=1e-12)


def test_every_adapter_gets_a_gradient_and_nothing_else_does(build):
    model = build(EVERYTHING)
    chunk = wrapped(model)

    model(make_pack(PLACES)).sum().backward()

    for name, parameter in global_names([chunk]):
        assert parameter.requires_grad == is_adapter(name), name
        if is_adapter(name):
            assert parameter.main_grad.abs().max() > 0, name


def test_frozen_weights_hold_no_gradient_and_no_optimizer_state(build):
    model = build(EVERYTHING)
    of_adapters = sum(p.numel() for name, p in model.named_parameters() if is_adapter(name))
    chunk = wrapped(model)

    config = optimizer_config(OptimConfig(distributed=False), Precision.fp64)
    optimizer = build_megatron_optimizer(config, [chunk])
    model(make_pack(PLACES)).sum().backward()
    optimizer.step()

    buffers = sum(buffer.numel_unpadded for buffer in chunk.buffers)
    groups = optimizer.optimizer.param_groups
    states = [optimizer.optimizer.state[p] for group in groups for p in group["params"]]
    assert buffers == of_adapters
    assert sum(state["exp_avg"].numel() for state in states) == of_adapters
    assert of_adapters < 0.5 * sum(p.numel() for p in model.parameters())


def test_a_starts_as_pefts_and_b_at_zero(build):
    model = build(EVERYTHING, trained=False)

    for name, parameter in model.named_parameters():
        if not is_adapter(name):
            continue
        if name.endswith("_b"):
            assert not parameter.any()
        else:
            bound = 1 / math.sqrt(parameter.shape[1])  # Kaiming-uniform with a = sqrt(5)
            assert 0.8 * bound < parameter.abs().max() <= bound


def test_dropout_acts_in_training_only_and_recomputation_repeats_it(build):
    lora = LoraConfig(targets=list(LoraTarget), rank=3, alpha=5.0, dropout=0.3)
    batch = make_pack(PLACES)
    expected = build(EVERYTHING).eval()(batch)

    outcomes = []
    for recompute in (Recompute.none, Recompute.full):
        model = build(lora, recompute=recompute)
        assert torch.equal(model.eval()(batch), expected)
        chunk = wrapped(model.train())
        with same_random_states():
            losses = model(batch)
            losses.sum().backward()
        gradients = {n: p.main_grad.clone() for n, p in global_names([chunk]) if is_adapter(n)}
        outcomes.append((losses.detach(), gradients))

    (kept, kept_gradients), (again, again_gradients) = outcomes
    assert (kept - expected).abs().max() > 1e-3
    assert torch.equal(kept, again)
    assert all(torch.equal(kept_gradients[n], again_gradients[n]) for n in kept_gradients)
