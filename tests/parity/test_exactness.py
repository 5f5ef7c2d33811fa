# SPDX-License-Identifier: Apache-2.0
"""What is equal to the last bit, and gradients that do not depend on how a batch is cut."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from owl.config.run import DeviceKind, FamilyKind, ModelConfig, Precision, Recompute
from owl.mcore.launch import run_in_processes
from owl.mcore.process_groups import job, layout, process_groups
from owl.model.families import BUILDS
from owl.parity.compare import distances
from owl.parity.layouts import Layout
from owl.parity.packs import Cut, make_samples
from owl.parity.trial import Outcome, run_trial, start_weights

CPU = DeviceKind.cpu
SMALL = BUILDS[FamilyKind.owl3].small_models(head_dim=4)
VARIANTS = ["240728", "241101"]  # untied embeddings
PLAIN = Layout(cut=Cut.pairs)
SHARDED = Layout(cut=Cut.pairs, tensor=2, rows="shared")
PIPELINES = [
    Layout(cut=Cut.pairs, pipeline=4),
    Layout(cut=Cut.pairs, pipeline=4, stages="uneven"),
    Layout(cut=Cut.pairs, pipeline=4, stages="interleaved"),
    Layout(cut=Cut.pairs, pipeline=4, recompute=Recompute.selective),
    Layout(cut=Cut.pairs, pipeline=4, recompute=Recompute.full),
]


@pytest.fixture(autouse=True)
def one_thread():
    """Sums run in the order of threads; a pool's processes use one as well."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights_of(model: ModelConfig, precision: Precision) -> dict[str, torch.Tensor]:
    with process_groups(Layout().parallel(CPU), alone=True) as groups:
        return start_weights(model, groups, precision)


def alone(one: Layout, model: ModelConfig, weights: dict, precision: Precision) -> Outcome:
    with process_groups(one.parallel(CPU), alone=True) as groups:
        return run_trial(one, model, weights, groups, precision, CPU)


def try_all(
    layouts: list[Layout], model: ModelConfig, weights: dict, precision: Precision, folder: Path
) -> None:
    """Run in every process: write the outcome of each layout, numbered."""
    torch.set_num_threads(1)
    with job(layouts[0].parallel(CPU)) as device:
        for number, each in enumerate(layouts):
            with layout(each.parallel(CPU), device) as groups:
                outcome = run_trial(each, model, weights, groups, precision, CPU)
                if groups.is_writer:
                    torch.save(asdict(outcome), folder / f"{number}.pt")


def together(
    processes: int, layouts: list[Layout], model, weights, precision, folder: Path
) -> list[Outcome]:
    run_in_processes(try_all, processes, layouts, model, weights, precision, folder)
    return [Outcome(**torch.load(folder / f"{number}.pt")) for number in range(len(layouts))]


def assert_same_bits(actual: Outcome, expected: Outcome) -> None:
    assert actual.losses == expected.losses
    for kind, steps in expected.token_losses.items():
        assert all(map(torch.equal, actual.token_losses[kind], steps)), kind
    for step, theirs in expected.gradients.items():
        ours = actual.gradients[step]
        assert ours.keys() == theirs.keys()
        for name, gradient in theirs.items():
            assert torch.equal(ours[name], gradient), f"{name} in {step}"
    for kind, parameters in expected.parameters.items():
        for name, parameter in parameters.items():
            assert torch.equal(actual.parameters[kind][name], parameter), f"{name} after {kind}"


@pytest.mark.parametrize("recompute", [Recompute.selective, Recompute.full], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_recompute_is_bit_identical_in_float32(variant, recompute):
    model, precision = SMALL[variant].model, Precision.fp32
    weights = weights_of(model, precision)

    kept = alone(PLAIN, model, weights, precision)
    again = alone(replace(PLAIN, recompute=recompute), model, weights, precision)

    assert_same_bits(again, kept)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "variant", [VARIANTS[0], pytest.param(VARIANTS[1], marks=pytest.mark.slow)]
)
def test_pipelines_and_recompute_in_layouts_are_bit_identical_in_float32(tmp_path, variant):
    model, precision = SMALL[variant].model, Precision.fp32
    weights = weights_of(model, precision)
    expected = alone(PLAIN, model, weights, precision)

    layouts = [*PIPELINES, SHARDED, replace(SHARDED, recompute=Recompute.full)]
    *pipelines, kept, again = together(4, layouts, model, weights, precision, tmp_path)

    for pipeline in pipelines:
        assert_same_bits(pipeline, expected)
    assert_same_bits(again, kept)
    worst, _ = distances(kept, expected)
    assert 0 < worst["gradients"] < 2e-5, "tensor parallelism sums in another order"


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_do_not_depend_on_how_a_global_batch_is_cut(tmp_path, variant):
    model, precision = SMALL[variant].model, Precision.fp64
    weights = weights_of(model, precision)
    supervised = [int((s.loss_weights[1:] > 0).sum()) for s in make_samples(model, seed=0)]
    one_row = alone(Layout(cut=Cut.one), model, weights, precision)

    others = [
        *(alone(Layout(cut=cut), model, weights, precision) for cut in (Cut.singles, Cut.halves)),
        *together(
            2,
            [Layout(cut=Cut.singles), Layout(cut=Cut.halves)],
            model, weights, precision, tmp_path,
        ),
    ]  # fmt: skip

    assert sorted(supervised)[:2] == [0, 3], "supervised tokens are not uneven"
    assert max(supervised) >= 20
    for other in others:
        worst, where = distances(other, one_row)
        assert worst["gradients"] <= 1e-11, where
        assert worst["loss"] <= 1e-11, where
