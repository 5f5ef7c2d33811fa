# SPDX-License-Identifier: Apache-2.0
"""Everything that prevents the data of a run from being opened, as sentences for the user."""

from collections.abc import Iterator
from pathlib import Path

from owl.config.run import DataConfig, EvaluateConfig, SourceConfig
from owl.data.encode.tokenizer import tokenizer_problem
from owl.data.shards.index import DATASET_FILE
from owl.data.shards.quarantine import read_quarantine
from owl.data.shards.storage import is_remote, open_storage, remote_problem
from owl.errors import ConfigError


def data_problems(data: DataConfig) -> Iterator[str]:
    """Yield a sentence for everything that prevents the data from being opened; never raises.

    Folders that the embedded demo makes on first use may be missing.
    """
    if not data.sources:
        yield "data.sources is empty. Name a prepared folder: data.sources.mine.path=FOLDER."
    for name, source in data.sources.items():
        is_made = data.is_made_by_demo(source.path)
        yield from _source_problems(f"data.sources.{name}", source, is_made=is_made)
    yield from _blend_problems(data)
    if not data.tokenizer:
        yield (
            "data.tokenizer is not set. Name a folder with tokenizer.json, or with vocab.json and "
            "merges.txt."
        )
    elif not data.is_made_by_demo(data.tokenizer) and (
        problem := tokenizer_problem(Path(data.tokenizer))
    ):
        yield (
            f"data.tokenizer={data.tokenizer}: {problem} Name a folder with the tokenizer of the "
            "language model."
        )
    try:
        read_quarantine(data.quarantine)
    except ConfigError as error:
        yield from error.problems


def held_out_problems(evaluate: EvaluateConfig, data: DataConfig) -> Iterator[str]:
    """Yield a sentence for each held-out source that cannot be opened; never raises."""
    for name, source in evaluate.sources.items():
        is_made = data.is_made_by_demo(source.path)
        yield from _source_problems(f"evaluate.sources.{name}", source, is_made=is_made)
        if name in data.sources and data.sources[name].held_out:
            yield (
                f"evaluate.sources.{name} has the name of data.sources.{name}, a part of which is "
                "held out: their losses could not be told apart. Rename it."
            )


def _blend_problems(data: DataConfig) -> Iterator[str]:
    """Weights and epochs cannot be mixed: a weight has no meaning beside a number of passes."""
    without = [name for name, source in data.sources.items() if source.epochs is None]
    if without and len(without) < len(data.sources):
        yield (
            f"data.sources.{without[0]}.epochs is not set, but other sources set theirs. Set "
            "it too (1 passes over it once an epoch), or blend all by weight."
        )


def _source_problems(setting: str, source: SourceConfig, *, is_made: bool) -> Iterator[str]:
    if not source.weight > 0:
        yield f"{setting}.weight={source.weight} must be above 0. To leave a source out, remove it."
    if source.epochs is not None and not source.epochs > 0:
        yield f"{setting}.epochs={source.epochs} must be above 0. To leave a source out, remove it."
    if source.max_frames is not None and source.max_frames < 1:
        yield f"{setting}.max_frames={source.max_frames} is below 1: a video shows a frame or more."
    if not 0 <= source.held_out < 1:
        yield (
            f"{setting}.held_out={source.held_out} is outside 0 <= value < 1: it is a share of the "
            "samples. Use 0.01 for one in a hundred."
        )
    if not source.path:
        yield f"{setting}.path is not set. Name a folder of prepared shards."
    elif is_remote(source.path):
        yield from _remote_problems(f"{setting}.path={source.path}", source.path)
    elif not is_made:
        yield from _folder_problems(f"{setting}.path={source.path}", Path(source.path))


def _folder_problems(setting: str, folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        yield f"{setting}: there is no such folder. Correct the path, or mount the disk it is on."
    elif not (folder / DATASET_FILE).is_file():
        yield f"{setting} holds no {DATASET_FILE}. Run owl data prepare {folder}"


def _remote_problems(setting: str, url: str) -> Iterator[str]:
    problem = remote_problem(url)
    if problem:
        yield f"{setting}: {problem}"
        return
    try:
        if open_storage(url).facts(DATASET_FILE) is None:
            yield (
                f"{setting} holds no {DATASET_FILE}. Prepare the folder on a disk with "
                "owl data prepare, then copy all of it there."
            )
    except OSError as error:
        yield f"{setting} cannot be reached: {error}. Check the address and the credentials."
