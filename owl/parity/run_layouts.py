# SPDX-License-Identifier: Apache-2.0
"""Compare every layout with the run of one process: the `layouts` command.

The reference is computed here, in one process; then a pool of processes stays alive and takes on
one layout after another, because importing Megatron takes longer than most trials.
"""

import gc
import json
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from owl.config.run import DeviceKind, FamilyKind, Precision
from owl.errors import OwlError
from owl.mcore.launch import run_in_processes
from owl.mcore.process_groups import job, layout, process_groups, world_size
from owl.model.families import BUILDS
from owl.model.small_model import SmallModel
from owl.parity.compare import KINDS, distances, euclidean_distance
from owl.parity.faults import FAULTS, faults_of
from owl.parity.layouts import TRAINABLE, Layout, Verdict, covering, features
from owl.parity.trial import Outcome, run_trial, start_weights

TOLERANCE = {Precision.fp64: 1e-10, Precision.fp32: 2e-5}
BFLOAT16_FACTOR = 1.5
"""A layout in bfloat16 may be this much further from float32 than one process in bfloat16 is."""
ALL_FAULTS = "all"
Plan = dict[str, list[Layout]]
"""Layouts to try, by name of the variant."""


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    family: FamilyKind = FamilyKind.owl3
    processes: int = 4
    only: str = ""
    precision: Precision = Precision.fp64
    device: DeviceKind = DeviceKind.cpu
    fault: str | None = None
    json: Path | None = None
    variants: tuple[str, ...] = ()  # of the family; none for all
    each_once: bool = False  # every feature's values once, instead of every pair of them

    @property
    def small_models(self) -> dict[str, SmallModel]:
        """The variants to compare, by name."""
        # FlexAttention takes heads of 16 and more.
        small = BUILDS[self.family].small_models(head_dim=16 if self.flex else 4)
        unknown = [name for name in self.variants if name not in small]
        if unknown:
            raise OwlError(
                f"--variant {' '.join(unknown)} is none of {self.family}'s: choose from "
                f"{', '.join(small)}."
            )
        return {name: small[name] for name in self.variants or small}

    @property
    def flex(self) -> bool:
        """Whether FlexAttention can be compared: it needs a GPU, and knows no float64."""
        return self.device is DeviceKind.cuda and self.precision is not Precision.fp64


def run_layouts(options: Options) -> None:
    """Compare, print the table, and exit with status 1 when a layout falls outside.

    Starts its own processes, or takes those that torchrun has started: then on as many machines as
    there are.

    Raises:
        OwlError: there are fewer GPUs than processes.
    """
    started = time.perf_counter()
    in_a_job = world_size() > 1
    if in_a_job:
        options = replace(options, processes=world_size())
    elif options.device is DeviceKind.cuda and torch.cuda.device_count() < options.processes:
        raise OwlError(
            f"--processes {options.processes} needs a GPU each, and {torch.cuda.device_count()} "
            f"are here. Use fewer, --device cpu, or torchrun on several machines."
        )
    plan = {name: _chosen(small, options) for name, small in options.small_models.items()}
    if not any(plan.values()):
        raise SystemExit(f"no layout that fits {options.processes} processes matches --only")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if not in_a_job:
            _compute_references(plan, options, folder)
            run_in_processes(_compare_all, options.processes, plan, options, folder)
        else:
            if _is_writer():
                _compute_references(plan, options, folder)
            _compare_all(plan, options, folder)
        if _is_writer():
            results = json.loads((folder / "results.json").read_text())
            _conclude(results, options, time.perf_counter() - started)


def _is_writer() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _conclude(results: list[dict[str, Any]], options: Options, seconds: float) -> None:
    """Print the outcome, and exit with status 1 if a layout falls outside."""
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2))
    failed = [result for result in results if not result["passes"]]
    if options.fault == ALL_FAULTS:
        planted = {(result["variant"], result["fault"]) for result in results}
        caught = {(result["variant"], result["fault"]) for result in failed}
        missed = [" ".join(each) for each in sorted(planted - caught)]
        print(f"\n{len(caught)} faults caught, {len(missed)} missed, {seconds:.0f} s")
        raise SystemExit(f"not caught: {', '.join(missed)}" if missed else 0)
    used = max(
        result["worst"][kind] / result["tolerance"][kind] for result in results for kind in KINDS
    )
    furthest = f"the furthest takes {used:.2g} of its tolerance"
    print(f"\n{len(results)} layouts, {len(failed)} outside, {furthest}, {seconds:.0f} s")
    if failed:
        raise SystemExit(1)


def _chosen(small: SmallModel, options: Options) -> list[Layout]:
    values = features(small, flex=options.flex)
    if options.each_once:
        layouts = covering(values, options.processes, together=1, at_least=0)
    else:
        layouts = covering(values, options.processes)
    return [layout for layout in layouts if options.only.lower() in layout.name.lower()]


def _compute_references(plan: Plan, options: Options, folder: Path) -> None:
    """Run each variant in one process, once for each choice of what learns."""
    for variant, layouts in plan.items():
        learns = [name for name in TRAINABLE if any(each.learns == name for each in layouts)]
        if not learns:
            continue
        model = options.small_models[variant].model
        truth = Precision.fp32 if options.precision is Precision.bf16 else options.precision
        plain = Layout().parallel(options.device)
        with process_groups(plain, alone=True) as groups:
            weights = start_weights(model, groups, options.precision)
            torch.save(weights, folder / f"{variant}.weights.pt")
            for name in learns:
                one = Layout(learns=name)
                for precision in {truth, options.precision}:
                    outcome = run_trial(one, model, weights, groups, precision, options.device)
                    torch.save(asdict(outcome), folder / f"{variant}.{name}.{precision}.pt")


def _compare_all(plan: Plan, options: Options, folder: Path) -> None:
    """Run in every process of the pool: take on each layout in turn."""
    warnings.simplefilter("ignore")
    results: list[dict[str, Any]] = []
    # The others wait here for the references.
    parallel = replace(Layout().parallel(options.device), timeout_minutes=10.0)
    with job(parallel) as device:
        for variant, layouts in plan.items():
            if not layouts:
                continue
            if _is_writer():
                print(_header(variant, options, layouts), flush=True)
            weights = _weights_of(variant, folder)
            for fault in _faults(variant, weights, options):
                if _is_writer() and fault:
                    print(f"planted: {fault}", flush=True)
                for each in layouts:
                    verdict = _try(each, variant, weights, options, folder, device, fault)
                    if verdict is not None:
                        print(_row(each, verdict), flush=True)
                        results.append(_as_json(variant, each, verdict, fault))
    if _is_writer():
        (folder / "results.json").write_text(json.dumps(results))


def _weights_of(variant: str, folder: Path) -> dict[str, torch.Tensor]:
    """Give every rank the weights that the first one has on its disk."""
    box = [torch.load(folder / f"{variant}.weights.pt") if _is_writer() else None]
    dist.broadcast_object_list(box, src=0)
    weights = box[0]
    assert weights is not None
    return weights


def _faults(
    variant: str, weights: dict[str, torch.Tensor], options: Options
) -> Sequence[str | None]:
    """The faults to plant, one after another; None for the product as it is."""
    if options.fault != ALL_FAULTS:
        return [options.fault]
    return faults_of(options.small_models[variant].model, weights)


def _try(
    each: Layout,
    variant: str,
    weights: dict[str, torch.Tensor],
    options: Options,
    folder: Path,
    device: torch.device,
    fault: str | None,
) -> Verdict | None:
    started = time.perf_counter()
    planted = FAULTS[fault]() if fault else nullcontext()
    with layout(each.parallel(options.device), device) as groups, planted:
        outcome = run_trial(
            each,
            options.small_models[variant].model,
            weights,
            groups,
            options.precision,
            options.device,
        )
        is_writer = groups.is_writer
    del groups
    gc.collect()  # the model goes, and with it the groups and their threads
    if not is_writer:
        return None
    return _judge(outcome, each, variant, options, folder, started)


def _judge(
    outcome: Outcome,
    each: Layout,
    variant: str,
    options: Options,
    folder: Path,
    started: float,
) -> Verdict:
    """Compare an outcome with the run of one process; bfloat16's with the truth in float32."""

    def stored(precision: Precision) -> Outcome:
        path = folder / f"{variant}.{each.learns}.{precision}.pt"
        return Outcome(**torch.load(path))

    if options.precision is Precision.bf16:
        truth = stored(Precision.fp32)
        worst, where = distances(outcome, truth, euclidean_distance)
        single, _ = distances(stored(Precision.bf16), truth, euclidean_distance)
        tolerance = {kind: BFLOAT16_FACTOR * distance for kind, distance in single.items()}
    else:
        worst, where = distances(outcome, stored(options.precision))
        tolerance = dict.fromkeys(KINDS, TOLERANCE[options.precision])
    seconds = time.perf_counter() - started
    return Verdict(worst=worst, where=where, tolerance=tolerance, seconds=seconds)


def _header(variant: str, options: Options, layouts: Sequence[Layout]) -> str:
    kinds = "".join(f"{kind:>11}" for kind in KINDS)
    return (
        f"\n{variant} in {options.precision}: {len(layouts)} layouts on "
        f"{options.processes} processes against one process\n{'layout':<86}{kinds}  verdict"
    )


def _row(each: Layout, verdict: Verdict) -> str:
    numbers = "".join(f"{verdict.worst[kind]:>11.1e}" for kind in KINDS)
    if verdict.passes:
        return f"{each.name:<86}{numbers}  ok"
    outside = [kind for kind in KINDS if not verdict.worst[kind] <= verdict.tolerance[kind]]
    kind = outside[0]
    return (
        f"{each.name:<86}{numbers}  OUTSIDE: {kind} {verdict.worst[kind]:.1e} > "
        f"{verdict.tolerance[kind]:.1e} at {verdict.where[kind]}"
    )


def _as_json(variant: str, each: Layout, verdict: Verdict, fault: str | None) -> dict[str, Any]:
    return {
        "fault": fault,
        "variant": variant,
        "layout": each.name,
        "features": asdict(each),
        "passes": verdict.passes,
        "worst": verdict.worst,
        "where": verdict.where,
        "tolerance": verdict.tolerance,
        "seconds": round(verdict.seconds, 2),
    }
