# SPDX-License-Identifier: Apache-2.0
"""Times from counts, and what two ranks communicate."""

import pytest

from owl.config.run import MixKind, ParallelConfig, RehearseConfig, RunConfig
from owl.errors import ConfigError
from owl.rehearse.compare import first_difference
from owl.rehearse.estimate import StepSize, estimate, group_name, transfer
from owl.rehearse.machine import Machine, load_machine
from owl.rehearse.packs import mix
from owl.rehearse.watch import Collective, Record, Work

MACHINE = Machine(
    name="test",
    peak_tflops=100,
    attention_tflops=50,
    bandwidth_gbps=1000,
    link_gbps=100,
    network_gbps=10,
    gpus_per_node=4,
)


def call(kind: str, ranks: range, phase: str = "forward", where: str = "owl/x.py:1") -> Collective:
    return Collective(phase, kind, tuple(ranks), where)


def test_an_all_reduce_moves_twice_what_a_ring_shares_out() -> None:
    assert transfer(call("allreduce", range(4)), 10**9, MACHINE) == pytest.approx(2 * 0.75 / 100)
    assert transfer(call("allgather_base", range(4)), 10**9, MACHINE) == pytest.approx(0.75 / 100)


def test_a_group_that_spans_nodes_has_the_network_s_rate() -> None:
    assert transfer(call("send", range(3, 5)), 10**9, MACHINE) == pytest.approx(1 / 10)


def test_groups_are_named_by_how_their_ranks_differ() -> None:
    run = RunConfig(parallel=ParallelConfig(tensor=4, pipeline=2))
    assert group_name(call("allreduce", range(4)), run) == "tensor"
    assert group_name(call("allreduce", range(0, 16, 4)), run) == "data"
    assert group_name(call("send", range(0, 32, 16)), run) == "pipeline"


def test_passes_are_scaled_to_a_step_and_the_update_is_not() -> None:
    record = Record(
        work={
            ("forward", "MLP"): Work(flops=10**14),
            ("optimizer", "optimizer"): Work(moved_bytes=10**12),
        }
    )
    size = StepSize(
        ranks=1, rehearsed=2, in_step=8, flops={"decoder": 2 * 10**14}, text_tokens=2, tiles=2
    )
    outcome = estimate(record, RunConfig(), MACHINE, size)
    assert outcome.terms["matrix products"] == pytest.approx(4.0)
    assert outcome.terms["memory bandwidth"] == pytest.approx(1.0)
    assert outcome.mfu == pytest.approx(8 / 5)
    assert outcome.bound_by == "matrix products"


def test_ranks_that_agree_have_no_difference() -> None:
    log = [(call("allreduce", range(2)), 4), (call("send", range(2)), 8)]
    assert first_difference(log, list(log), (0, 1)) is None


def test_a_missing_collective_is_described_with_both_lines() -> None:
    one = [(call("allreduce", range(2), where="owl/a.py:1"), 4)]
    other = [(call("allreduce", range(2), where="owl/b.py:2"), 8)]
    text = first_difference(one, other, (0, 1))
    assert text is not None
    assert "owl/a.py:1" in text and "owl/b.py:2" in text and "hang" in text
    assert "enters no more" in str(first_difference(one, [], (0, 1)))


def test_groups_without_the_other_rank_are_not_compared() -> None:
    assert first_difference([(call("allreduce", range(2)), 4)], [], (0, 5)) is None


@pytest.mark.parametrize("kind", [kind for kind in MixKind if kind.value not in ("auto", "data")])
def test_mixes_have_text_and_pictures(kind: MixKind) -> None:
    tokens, tiles = mix(kind, 8192, 64, 6)
    assert len(tokens) == len(tiles) > 1000
    assert tokens.min() > 0 and tiles.sum() > 0
    assert (tokens >= 6 * tiles).all()


@pytest.mark.parametrize("name", ["h100", "h200", "a100"])
def test_machine_tables_are_complete(name: str) -> None:
    machine = load_machine(name)
    assert machine.name and all(
        value > 0 for value in vars(machine).values() if value != machine.name
    )


def test_an_unknown_machine_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="a100, h100, h200"):
        load_machine("abacus")


def test_a_rank_outside_of_the_job_is_a_problem() -> None:
    (problem,) = RehearseConfig(gpus=4, rank=4).problems()
    assert "rehearse.rank=4" in problem
