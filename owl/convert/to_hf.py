# SPDX-License-Identifier: Apache-2.0
"""A training checkpoint, saved in any layout, to a Hugging Face folder: whole, or one part of it.

Pieces of tensors, as ranks saved them, are in memory, one a thread. Tensors that training does not
hold (the tower's last layer, norm and head) come from the file that the checkpoint carries along.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from owl.checkpoint.folder import resolve_checkpoint
from owl.checkpoint.load import load_model_config
from owl.checkpoint.save import CARRIED
from owl.checkpoint.stream import CheckpointTensors
from owl.checkpoint.tensor_spec import TensorSpec
from owl.checkpoint.threads import CancelCheck, in_threads, shares
from owl.config.run import ModelConfig
from owl.convert.atomic_folder import check_free, whole_folder
from owl.convert.card import model_card
from owl.convert.check import check_ours
from owl.convert.progress import Progress
from owl.convert.reader import SafetensorsReader
from owl.convert.rows import RowSpan, row_runs, runs_within
from owl.convert.safetensors_file import ShardedSafetensors
from owl.convert.shapes import published_shapes
from owl.data.encode.tokenizer import load_tokenizer, tokenizer_problem
from owl.errors import CheckpointError
from owl.families.owl3.published import Entry, carried_names, entries
from owl.families.owl3.published_config import (
    published_choices,
    published_config,
    qwen2_config,
    siglip_config,
)

_TOKENIZER_FILES = (
    "tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "chat_template*", "generation_config.json",
)  # fmt: skip
_OWL3_FILES = (*_TOKENIZER_FILES, "*processor_config.json", "*.py", "LICENSE*")
# Of the layers that see images, what a plain Qwen2 does not have.
_MEDIA_TAILS = (
    ".v_kv_proj.weight", ".v_kv_proj.bias",
    ".self_attn.gate_proj.0.weight", ".self_attn.gate_proj.0.bias", ".self_attn.gate",
)  # fmt: skip


class Part(StrEnum):
    """What is exported."""

    owl3 = "owl3"  # everything, as published
    language_model = "language-model"  # a plain Qwen2ForCausalLM
    vision_model = "vision-model"  # a plain SiglipVisionModel


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How an export is written."""

    part: Part = Part.owl3
    base: Path | None = None  # folder that tokenizer, generation config and code are copied from
    shard_bytes: int = 5 * 10**9
    dtype: torch.dtype | None = None  # None keeps each weight's own
    with_code: bool = False  # copy owl.hf's code, for trust_remote_code users
    replace: bool = False


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    options: ExportOptions | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, TensorSpec]:
    """Write a checkpoint as a Hugging Face folder.

    Args:
        checkpoint: checkpoint, or run folder whose newest is taken.
        output: folder to write; nothing is there until it is whole.
        options: how.
        report: gets lines about progress.

    Returns:
        Name, shape and dtype of the tensors written.

    Raises:
        CheckpointError: the checkpoint is damaged, or `output` exists. Nothing is written.
    """
    options = options or ExportOptions()
    check_free(output, replace=options.replace)
    checkpoint = resolve_checkpoint(checkpoint, "--checkpoint")
    _check(options)
    export = _Export(checkpoint, options)
    with whole_folder(output, replace=options.replace) as folder:
        export.write_weights(folder, report)
        export.write_about(folder, report)
    return export.specs


def planned_tensors(model: ModelConfig, part: Part = Part.owl3) -> dict[str, tuple[int, ...]]:
    """Name and shape of the tensors that an export of a model writes; needs no checkpoint.

    Raises:
        CheckpointError: no Owl3 folder can hold such a model.
    """
    if part is Part.owl3:
        published_choices(model)  # may refuse
    shapes = published_shapes(model)
    return {new: shapes[name] for name, new in _names_in(part, shapes).items()}


def _check(options: ExportOptions) -> None:
    if options.base is not None and not options.base.is_dir():
        raise CheckpointError(f"--base {options.base} is not a folder. Name one with a tokenizer.")
    if options.with_code and options.part is not Part.owl3:
        raise CheckpointError(
            f"--with-code goes with --part owl3: transformers has the code of {options.part}."
        )


class _Export:
    """One checkpoint on its way out."""

    def __init__(self, checkpoint: Path, options: ExportOptions) -> None:
        self.checkpoint, self.options = checkpoint, options
        self.model = load_model_config(checkpoint)
        self.weights = CheckpointTensors(checkpoint)
        check_ours(str(checkpoint), self.weights.specs, self.model)
        self.carried = _CarriedWeights(checkpoint, self.model, self._embedding_dtype)
        self.shapes = published_shapes(self.model)
        # Made first, for both may refuse.
        self.config = self._config()
        self.control_tokens = _control_tokens(options, self.model)
        self.specs = dict(self._specs())

    @property
    def _embedding_dtype(self) -> torch.dtype:
        return self.weights.specs["embedding.word_embeddings.weight"].dtype

    @property
    def _dtype(self) -> torch.dtype:
        return self.options.dtype or self._embedding_dtype

    def write_weights(self, folder: Path, report: Callable[[str], None]) -> None:
        """Write all tensors, piece by piece, in several threads."""
        names = _names_in(self.options.part, self.shapes)
        files = ShardedSafetensors(folder, self.specs, self.options.shard_bytes)
        total = sum(spec.nbytes for spec in self.specs.values())
        progress = Progress("export", total, report)

        def write(name: str, first: int, rows: Tensor) -> None:
            rows = rows.to(self.specs[name].dtype)
            files.write_rows(name, first, rows)
            progress.advance(rows.nbytes)

        def write_piece(runs: Sequence[RowSpan], start: int, piece: Tensor) -> None:
            for run in runs_within(runs, start, start + len(piece)):
                rows = piece[run.ours - start : run.ours - start + run.rows]
                write(names[run.published], run.first, rows)

        def write_share(_: int, share: Sequence[Entry], raise_if_cancelled: CancelCheck) -> None:
            for entry in share:
                runs = [run for run in row_runs(entry, self.shapes) if run.published in names]
                self.weights.use_pieces(entry.ours, partial(write_piece, runs), raise_if_cancelled)

        in_threads(write_share, self._shares(names))
        for name in self.carried.specs:
            if name in names:
                write(names[name], 0, self.carried.read(name))
        files.close()

    def write_about(self, folder: Path, report: Callable[[str], None]) -> None:
        """Write config.json and the card, and copy what the base folder has."""
        copied = _copy_base(self.options, folder)
        if copied:
            report(f"copied from {self.options.base}: {', '.join(copied)}")
        if self.carried.made_up:
            report(
                f"{len(self.carried.specs)} tensors that influence no output (the tower's last "
                f"layer, norm and head) are not in this checkpoint: they are written as zeros"
            )
        config = _with_base(self.config, self.options, has_code=any(folder.glob("*.py")))
        config = self.control_tokens | config
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if self.options.with_code:
            from owl.hf.remote_code import copy_code  # needs transformers; nothing else here does

            report(f"code: {', '.join(path.name for path in copy_code(folder))}")
        card = model_card(self.model, self.checkpoint, self.specs, self.options.part)
        (folder / "README.md").write_text(card, encoding="utf-8")

    def _specs(self) -> Iterator[tuple[str, TensorSpec]]:
        """Yield what is written, under the names it gets."""
        dtypes = {name: spec.dtype for name, spec in self.carried.specs.items()}
        for entry in entries(self.model):
            stored = self.weights.specs[entry.ours].dtype
            dtypes |= dict.fromkeys(entry.published, stored)
        names = _names_in(self.options.part, self.shapes)
        for name, new in names.items():
            if name in dtypes:  # a carried tensor may not have been published
                dtype = self.options.dtype or dtypes[name]
                yield new, TensorSpec(self.shapes[name], dtype)

    def _shares(self, names: Mapping[str, str]) -> list[list[Entry]]:
        """Share out over threads what the tensors in `names` are made of."""
        return shares(
            {
                entry: self.weights.specs[entry.ours].nbytes
                for entry in entries(self.model)
                if any(name in names for name in entry.published)
            }
        )

    def _config(self) -> dict[str, Any]:
        dtype = str(self._dtype).removeprefix("torch.")
        if self.options.part is Part.language_model:
            return qwen2_config(self.model, dtype)
        if self.options.part is Part.vision_model:
            head = any(name.startswith("vision_model.head.") for name in self.carried.specs)
            return siglip_config(self.model, dtype, head=head)
        return published_config(self.model, dtype)


class _CarriedWeights:
    """Published tensors that influence no output: as they came, or made up where none came.

    A model that was never imported (the demo's) has none; loaders ask for all names, so they are
    zeros then, which makes the last layer the identity, and ones in the norms.
    """

    def __init__(self, checkpoint: Path, model: ModelConfig, dtype: torch.dtype) -> None:
        path = checkpoint / CARRIED
        self.made_up = not path.is_file()
        self._reader = None if self.made_up else SafetensorsReader(path)
        shapes = published_shapes(model)
        self.specs: Mapping[str, TensorSpec] = (
            self._reader.specs
            if self._reader
            else {name: TensorSpec(shapes[name], dtype) for name in carried_names(model)}
        )

    def read(self, name: str) -> Tensor:
        """Read or make one tensor."""
        if self._reader:
            return self._reader.read(name)
        spec = self.specs[name]
        is_scale = "norm" in name and name.endswith("weight")
        return torch.full(spec.shape, float(is_scale), dtype=spec.dtype)


def _names_in(part: Part, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Which published tensors a part has, and what they are called in it."""
    if part is Part.language_model:
        return {
            name: name.removeprefix("language_model.")
            for name in shapes
            if name.startswith("language_model.") and not name.endswith(_MEDIA_TAILS)
        }
    if part is Part.vision_model:
        return {name: name for name in shapes if name.startswith("vision_model.")}
    return {name: name for name in shapes}


def _copy_base(options: ExportOptions, folder: Path) -> list[str]:
    """Copy what goes along from the base folder; returns the names."""
    if options.base is None or options.part is Part.vision_model:
        return []
    patterns = _OWL3_FILES if options.part is Part.owl3 else _TOKENIZER_FILES
    copied = []
    for path in sorted(options.base.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns):
            shutil.copyfile(path, folder / path.name)
            copied.append(path.name)
    return copied


def _with_base(config: dict[str, Any], options: ExportOptions, *, has_code: bool) -> dict[str, Any]:
    """Fill in from the base folder what we do not know, such as control token ids."""
    if options.base is None or options.part is Part.vision_model:
        return config
    path = options.base / "config.json"
    if path.is_file() and options.part is Part.owl3:
        base = json.loads(path.read_text(encoding="utf-8"))
        # Said by newer transformers in other words than ours, which would contradict.
        for renamed in ("dtype", "rope_parameters", "transformers_version"):
            base.pop(renamed, None)
        if not has_code:
            base.pop("auto_map", None)
        vision = base.get("vision_config", {}) | config["vision_config"]
        config = base | config | {"vision_config": vision}
    return config


def _control_tokens(options: ExportOptions, model: ModelConfig) -> dict[str, int]:
    """Ids of the control tokens, where a tokenizer goes along."""
    base = options.base
    if base is None or options.part is Part.vision_model or tokenizer_problem(base):
        return {}
    tokenizer = load_tokenizer(base)
    if tokenizer.vocab_size > model.vocab_size:
        raise CheckpointError(
            f"--base {base}: its tokenizer has {tokenizer.vocab_size} ids, the model only "
            f"{model.vocab_size} rows. Name the folder of the tokenizer that it was trained with."
        )
    return {"bos_token_id": tokenizer.end_of_text, "eos_token_id": tokenizer.im_end}
