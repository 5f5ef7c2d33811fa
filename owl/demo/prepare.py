# SPDX-License-Identifier: Apache-2.0
"""Make a demo's folder, once: two pretrained models, a tokenizer, shards, start weights.

    demo_data/
      tokenizer/          63 words
      language_model/     a tiny Qwen2, as transformers saves it
      vision_model/       a tiny SigLIP, likewise
      shards/stage1/      one picture at a time
      shards/stage2/      several
      start/              Owl3 made of the two models: where stage 1 begins
      recipe.txt          version of what made all this

Other families have folders of their own, with their kinds of models.

Each part is built under another name and moved into place when complete, so that after an
interruption the next call makes only what is missing.
"""

import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from owl.config.run import FamilyKind
from owl.demo.families import DEMOS, tiny_model
from owl.errors import ConfigError

RECIPE = "1"
"""Raise it when the demo's data or models change: folders of another recipe are made again."""
ALBUM_SEED = 3


def parts(family: FamilyKind) -> list[str]:
    """List what a family's folder has."""
    shards = [f"shards/{name}" for name in DEMOS[family].SHARDS]
    return ["tokenizer", "language_model", "vision_model", *shards, "start"]


def prepare_demo(folder: Path, family: FamilyKind = FamilyKind.owl3) -> None:
    """Make the missing parts of the demo's folder; takes about two minutes the first time.

    Any number of processes may call this at the same time: one makes it, the others wait.

    Args:
        folder: usually `demo_data`.
        family: whose demo it is.

    Raises:
        ConfigError: the folder has another family's demo.
    """
    _check_family(folder, family)
    if is_ready(folder, family):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        if is_ready(folder, family):  # another process has made it meanwhile
            return
        report(
            f"making the demo's pictures, text and two tiny models in {folder} (once, ~2 minutes)"
        )
        _remove_outdated(folder, family)
        # In separate processes: training there does not change a trainer's random state or process
        # groups, and the two models train in parallel.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, mp_context=spawn, initializer=_on_the_cpu) as pool:
            pool.submit(_make_tokenizer, folder, family).result()
            middle = (_make_language_model, _make_vision_model, _make_shards)
            for part in [pool.submit(make, folder, family) for make in middle]:
                part.result()
            pool.submit(_make_start, folder, family).result()
        report(f"{folder} is ready")


def is_ready(folder: Path, family: FamilyKind) -> bool:
    """Whether every part exists and was made by this recipe."""
    is_current = _recipe_of(folder) == _recipe(family)
    return is_current and all((folder / part).is_dir() for part in parts(family))


def report(line: str) -> None:
    """Print a line of progress to standard error, where logs go."""
    print(f"demo: {line}", file=sys.stderr, flush=True)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, once no other process does.

    The system releases it however this process ends. On a disk without such locks it becomes a
    file, which the next process on this machine removes if its holder is gone.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"waiting for another process that is making {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _recipe(family: FamilyKind) -> str:
    return RECIPE if family is FamilyKind.owl3 else f"{RECIPE} {family}"


def _recipe_of(folder: Path) -> str | None:
    stamp = folder / "recipe.txt"
    return stamp.read_text().strip() if stamp.is_file() else None


def _check_family(folder: Path, family: FamilyKind) -> None:
    _, _, made_for = (_recipe_of(folder) or _recipe(family)).partition(" ")
    if (made_for or FamilyKind.owl3) != family:
        raise ConfigError(
            f"data.demo_folder={folder} has the demo of {made_for or FamilyKind.owl3}, but "
            f"model.family={family}. Set data.demo_folder=demo_data/{family}, or another folder."
        )


def _remove_outdated(folder: Path, family: FamilyKind) -> None:
    if _recipe_of(folder) == _recipe(family):
        return
    for part in parts(family):
        shutil.rmtree(folder / part, ignore_errors=True)
    (folder / "recipe.txt").write_text(f"{_recipe(family)}\n")


def _on_the_cpu() -> None:
    """Make the same models on every machine, and leave the GPUs to the trainer that waits."""
    from owl.mcore.cpu import hide_gpus

    hide_gpus()


def _make_tokenizer(folder: Path, family: FamilyKind) -> None:
    from owl.demo.text import save_tokenizer

    _make(folder / "tokenizer", partial(save_tokenizer, family=family))


def _make_language_model(folder: Path, family: FamilyKind) -> None:
    from owl.demo.pretrain import train_language_model

    torch.set_num_threads(1)  # in parallel with the vision model
    _make(
        folder / "language_model",
        lambda output: train_language_model(output, folder / "tokenizer", report, family=family),
    )


def _make_vision_model(folder: Path, family: FamilyKind) -> None:
    from owl.demo.pretrain import train_vision_model

    torch.set_num_threads(1)  # in parallel with the language model
    _make(folder / "vision_model", lambda output: train_vision_model(output, report, family=family))


def _make_shards(folder: Path, family: FamilyKind) -> None:
    from owl.demo.digits import TRAINING, load_digits
    from owl.demo.shards import STAGES, Album, write_stage

    wanted = DEMOS[family].SHARDS
    missing = [name for name in wanted if not (folder / "shards" / name).is_dir()]
    if not missing:
        return
    torch.set_num_threads(1)
    album = Album(load_digits(TRAINING), seed=ALBUM_SEED)
    tokenizer = folder / "tokenizer"
    for name in missing:
        write = partial(write_stage, name=name, album=album, tokenizer=tokenizer, family=family)
        _make(folder / "shards" / name, write)
        report(f"wrote {STAGES[name].samples:,} samples of {name}")


def _make_start(folder: Path, family: FamilyKind) -> None:
    from owl.convert.init import init_checkpoint

    options = DEMOS[family].init_options(tiny_model(family))
    _make(
        folder / "start",
        lambda output: init_checkpoint(
            folder / "language_model", folder / "vision_model", output, options, report
        ),
    )


def _make(final: Path, build: Callable[[Path], object]) -> None:
    """Build a missing folder under another name, and move it into place when complete."""
    if final.is_dir():
        return
    unfinished = final.with_name(f"{final.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    build(unfinished)
    unfinished.rename(final)
