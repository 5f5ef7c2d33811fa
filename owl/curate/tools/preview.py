# SPDX-License-Identifier: Apache-2.0
"""Show what the model sees: one micro-batch, or one sample, as a single HTML file.

    owl data preview                                          # the demo, step 1
    owl data preview --step 40 --rank 3 --dp 8 +experiment=stage2 data=mine
    owl data preview --sample mine:1234 data=own data.sources.mine.path=/data/mine \\
        data.tokenizer=/data/Qwen2-7B

Give it the overrides of the training command (also --config-dir, --config-name). The batch is the
one that this rank would train on at this step: same order, same cutting, same packs. The page shows
each token with its id, label, weight and position, the tiles, which token sees which tile, and the
work of the pack and of every rank. It needs no network and no JavaScript.

Exit code: 0 the page is written; 2 the settings or the data cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from owl.errors import OwlError, UsageError

if TYPE_CHECKING:  # torch takes a second: --help does without it
    from owl.config.run import RunConfig
    from owl.curate.preview.batch import StepChoice
    from owl.curate.preview.view import PageView
    from owl.data.loader import Loader
    from owl.data.samples import PackedBatch

EXCLUSION = "in training"
"""Label of the fact that training does not see a sample as it is shown."""


def _parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: the options here, and the overrides of the training command."""
    parser = argparse.ArgumentParser(
        prog="owl data preview",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--step", type=int, default=1, help="as the training log counts, from 1")
    parser.add_argument("--dp", type=int, default=1, help="data-parallel ranks (default: 1)")
    parser.add_argument("--rank", type=int, default=0, help="data-parallel rank, from 0")
    parser.add_argument("--microbatch", type=int, default=0, help="of this rank's, from 0")
    parser.add_argument("--sample", help="SOURCE:NUMBER or SOURCE:KEY instead of a micro-batch")
    parser.add_argument("--show", type=int, default=64, help="samples on the page (default: 64)")
    parser.add_argument(
        "--output", type=Path, default=Path("preview.html"), help="(default: preview.html)"
    )
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page that the command line asks for; return the exit code."""
    arguments, overrides = _parse_arguments(argv)
    from owl.config.data_run import read_data_run
    from owl.curate.preview.page import render_page
    from owl.data.open_run import open_loader

    try:
        _check_arguments(arguments)
        run = read_data_run(overrides)
        run.data.num_workers = 0  # for one batch, processes would only take time to start
        loader = open_loader(run, dp_rank=arguments.rank, dp_size=arguments.dp)
        view = (_view_sample if arguments.sample else _view_step)(run, loader, arguments)
        page = render_page(view)
    except OwlError as error:
        print(f"preview: {error}", file=sys.stderr)
        return 2
    try:
        arguments.output.write_text(page, encoding="utf-8")
    except OSError as error:
        print(f"preview: --output {arguments.output}: {error.strerror}.", file=sys.stderr)
        return 2
    for name, fact in view.facts:
        if name == EXCLUSION:
            print(f"note: {fact}")
    print(f"wrote {arguments.output}, {len(page.encode()) / 1e3:,.0f} kB")
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Raise UsageError for numbers out of range, and for an output that cannot be written."""
    if arguments.dp < 1 or not 0 <= arguments.rank < arguments.dp:
        raise UsageError(
            f"--rank {arguments.rank} of --dp {arguments.dp}: ranks are numbered 0 to dp - 1."
        )
    for option in ("step", "show"):
        if getattr(arguments, option) < 1:
            raise UsageError(f"--{option} {getattr(arguments, option)}: use 1 or more.")
    if arguments.output.is_dir():
        raise UsageError(
            f"--output {arguments.output} is a folder. Name a file: {arguments.output}/preview.html"
        )
    if not arguments.output.absolute().parent.is_dir():
        raise UsageError(f"--output {arguments.output}: there is no such folder. Make it first.")


def _view_step(run: RunConfig, loader: Loader, arguments: argparse.Namespace) -> PageView:
    from owl.curate.preview.batch import load_step
    from owl.curate.preview.view import PageView, RankView, sample_views
    from owl.data.families import WORK
    from owl.data.open_run import step_size
    from owl.data.plan.plan import predicted_cost

    size = step_size(run.batch, loader, dp_size=arguments.dp)
    choice = load_step(
        loader,
        step=arguments.step,
        rank=arguments.rank,
        microbatch=arguments.microbatch,
        global_batch_size=size,
        micro_batch_size=run.batch.micro_batch_size,
    )
    names = [loader.plan.sources[number].name for number in choice.sources]
    return PageView(
        title=f"Step {arguments.step}, rank {arguments.rank} of {arguments.dp}, micro-batch "
        f"{arguments.microbatch} of {len(choice.step.microbatches)}",
        facts=[*_run_facts(run), *_step_facts(choice, size), *_batch_facts(choice.batch)],
        text_tokens=choice.batch.num_tokens,
        tiles=choice.batch.num_tiles,
        text_budget=run.pack.text_tokens * len(choice.packs),
        tile_budget=run.pack.tiles * len(choice.packs),
        samples=list(
            sample_views(
                choice.batch,
                loader.tokenizer,
                loader.reading,
                names,
                position_shift=run.model.enters.position_shift,
                show=arguments.show,
            )
        ),
        num_samples=choice.batch.num_samples,
        work=WORK[run.model.family].batch_flops(choice.batch, run.model, run.counted_parts),
        ranks=[
            RankView(rank=rank, packs=[predicted_cost(pack, loader.tile_cost) for pack in share])
            for rank, share in enumerate(choice.shares)
        ],
        rank=arguments.rank,
        tile_cost=loader.tile_cost,
    )


def _view_sample(run: RunConfig, loader: Loader, arguments: argparse.Namespace) -> PageView:
    from owl.curate.preview.batch import exclusion_note, load_sample
    from owl.curate.preview.view import PageView, sample_views
    from owl.data.families import WORK

    batch, planned = load_sample(loader, run.data, arguments.sample)
    source = loader.plan.sources[planned.source].name
    excluded = exclusion_note(loader, planned)
    notes = [(EXCLUSION, excluded)] if excluded else []
    return PageView(
        title=f"Sample {planned.index} of {source}: {batch.keys[0]}",
        facts=[*notes, *_run_facts(run), ("pictures cut", planned.cut.name), *_batch_facts(batch)],
        text_tokens=batch.num_tokens,
        tiles=batch.num_tiles,
        text_budget=run.pack.text_tokens,
        tile_budget=run.pack.tiles,
        samples=list(
            sample_views(
                batch,
                loader.tokenizer,
                loader.reading,
                [source],
                position_shift=run.model.enters.position_shift,
                show=1,
            )
        ),
        num_samples=1,
        work=WORK[run.model.family].batch_flops(batch, run.model, run.counted_parts),
    )


def _run_facts(run: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield the settings of the run that decide how samples look."""
    yield "model", run.model.name
    yield "stage", run.stage.name
    yield "template", run.model.template
    yield "tile", f"{run.model.vision_tower.image_size} px"
    yield "media position", f"offset + {run.model.enters.position_shift}"


def _step_facts(choice: StepChoice, global_batch_size: int) -> Iterator[tuple[str, str]]:
    cursor, report = choice.step.cursor, choice.step.report
    yield "global batch", f"{global_batch_size} packs"
    yield "micro-batch", f"{len(choice.packs)} pack(s)"
    yield "cursor after", f"epoch {cursor.epoch}, window {cursor.window}, pack {cursor.pack}"
    if report.skipped:
        yield "skipped in step", ", ".join(f"{c} {n}" for c, n in report.skipped.items())


def _batch_facts(batch: PackedBatch) -> Iterator[tuple[str, str]]:
    yield "samples", f"{batch.num_samples:,}"
    yield "learned tokens", f"{int((batch.loss_weights > 0).sum()):,}"
    yield "loss weight", f"{batch.supervised_weight:,.6g}"
