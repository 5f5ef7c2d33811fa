# SPDX-License-Identifier: Apache-2.0
"""A training checkpoint, saved in any layout, to a Hugging Face folder: complete, or one part.

Tensors are in memory piece by piece, as ranks saved them. Tensors that training does not hold come
from the file that the checkpoint carries along.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from owl.checkpoint.folder import resolve_checkpoint
from owl.checkpoint.load import load_model_config
from owl.checkpoint.save import CARRIED
from owl.checkpoint.tensor_spec import TensorSpec
from owl.config.run import ModelConfig
from owl.convert.adapters import MergedTensors
from owl.convert.card import model_card
from owl.convert.check import check_ours
from owl.convert.export_part import ExportPart, Part
from owl.convert.families import PUBLISHED, Published, weight_table
from owl.convert.files.atomic_folder import atomic_folder, check_free
from owl.convert.files.reader import WeightReader
from owl.convert.files.safetensors_file import ShardedSafetensors
from owl.convert.run_tokenizer import TOKENIZER_ONLY, run_tokenizer
from owl.convert.tables.rows import row_spans, spans_within
from owl.convert.tables.table import Shape, WeightTable, published_shapes
from owl.data.encode.tokenizer import load_tokenizer, tokenizer_problem
from owl.data.families import reading_of
from owl.errors import CheckpointError
from owl.progress import Progress


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How an export is written."""

    part: Part = Part.complete
    base: Path | None = None  # folder to copy tokenizer, generation config and code from
    shard_bytes: int = 5 * 10**9
    dtype: torch.dtype | None = None  # None keeps each weight's own
    with_code: bool = True  # of a complete model: what loads it where owl is not installed
    replace: bool = False


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    options: ExportOptions | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, TensorSpec]:
    """Write a checkpoint as a Hugging Face folder, its adapters merged into the weights.

    Args:
        checkpoint: checkpoint, or run folder whose newest is taken.
        output: folder to write; it appears when it is complete.
        options: part, number format and the like.
        report: receives lines about progress.

    Returns:
        Name, shape and dtype of the tensors written.

    Raises:
        CheckpointError: the checkpoint is damaged, or `output` exists. Nothing is written.
    """
    options = options or ExportOptions()
    check_free(output, replace=options.replace)
    checkpoint = resolve_checkpoint(checkpoint, "--checkpoint")
    _check(options)
    model = load_model_config(checkpoint)
    export = _Export(checkpoint, options, PUBLISHED[model.family], model)
    with atomic_folder(output, replace=options.replace) as folder:
        export.write_weights(folder, report)
        export.write_about(folder, report)
    return export.specs


def planned_tensors(model: ModelConfig, part: Part = Part.complete) -> dict[str, Shape]:
    """Return name and shape of the tensors that an export of a model writes.

    Raises:
        CheckpointError: the published form cannot hold such a model.
    """
    family = PUBLISHED[model.family]
    exported = _part(family, part)
    exported.config(model, "float32", ())  # may raise
    table = weight_table(family, model)
    shapes = table.shapes if exported.makes_up_carried else published_shapes(table.entries)
    return {new: shapes[name] for name, new in exported.names(shapes).items()}


def _part(family: Published, part: Part) -> ExportPart:
    if part not in family.PARTS:
        raise CheckpointError(
            f"--part {part} is not available for this model. Use {', '.join(family.PARTS)}."
        )
    return family.PARTS[part]


def _check(options: ExportOptions) -> None:
    if options.base is not None and not options.base.is_dir():
        raise CheckpointError(f"--base {options.base} is not a folder. Name one with a tokenizer.")


class _Export:
    """One checkpoint that is being exported."""

    def __init__(
        self, checkpoint: Path, options: ExportOptions, family: Published, model: ModelConfig
    ) -> None:
        self.checkpoint, self.options = checkpoint, options
        self.family, self.model = family, model
        self.part = _part(family, options.part)
        self.table = weight_table(family, model)
        self.weights = MergedTensors(checkpoint, self.table)
        check_ours(str(checkpoint), self.weights.specs, self.table)
        embedding_dtype = self.weights.specs["embedding.word_embeddings.weight"].dtype
        self.carried = _CarriedWeights(
            checkpoint, self.table, embedding_dtype, makes_up=self.part.makes_up_carried
        )
        # Before anything is written, since both may raise.
        dtype = str(options.dtype or embedding_dtype).removeprefix("torch.")
        self.config = self.part.config(model, dtype, list(self.carried.specs))
        self.run_tokenizer, self.tokenizer_origin = self._find_tokenizer()
        self.control_tokens = _control_tokens(self.run_tokenizer or self.base, self.part, model)
        self.names = self.part.names(self.table.shapes)
        """Published name to the name in the part."""
        self.specs = dict(self._specs())
        """Name in the part to shape and dtype of what is written."""

    @property
    def base(self) -> Path | None:
        """The folder that files are copied from, if the part takes any."""
        return self.options.base if self.part.base_files else None

    def _find_tokenizer(self) -> tuple[Path | None, str]:
        """Return the tokenizer of the checkpoint's run, unless the base folder has one."""
        if not self.part.base_files or (self.base and not tokenizer_problem(self.base)):
            return None, ""
        return run_tokenizer(self.checkpoint)

    def write_weights(self, folder: Path, report: Callable[[str], None]) -> None:
        """Write all tensors, piece by piece."""
        files = ShardedSafetensors(folder, self.specs, self.options.shard_bytes)
        total = sum(spec.nbytes for spec in self.specs.values())
        progress = Progress("export", total, report)
        for name, first, rows in self._rows():
            rows = rows.to(self.specs[name].dtype)
            files.write_rows(name, first, rows)
            progress.advance(rows.nbytes)
            del rows  # before the next piece is read
        files.close()

    def _rows(self) -> Iterator[tuple[str, int, Tensor]]:
        """Yield name in the part, first row and rows."""
        for entry in self.table.entries:
            spans = [span for span in row_spans(entry) if span.published in self.names]
            if not spans:
                continue
            for start, piece in self.weights.pieces(entry.ours):
                for span in spans_within(spans, start, start + len(piece)):
                    rows = piece[span.ours - start : span.ours - start + span.rows]
                    yield self.names[span.published], span.first, rows
                    del rows
                del piece
        for name in self.carried.specs:
            if name in self.names:
                yield self.names[name], 0, self.carried.read(name)

    def write_about(self, folder: Path, report: Callable[[str], None]) -> None:
        """Write config.json and the card, and copy files of the base folder."""
        stands_alone = self._stands_alone(report)
        skipped = ("*.py",) if stands_alone else ()  # of another release
        copied = _copy_files(self.base, self.part.base_files, folder, skipped)
        if copied:
            report(f"copied from {self.base}: {', '.join(copied)}")
        if self.run_tokenizer:
            copied = _copy_files(self.run_tokenizer, TOKENIZER_ONLY, folder, ())
            report(
                f"tokenizer of the run ({self.tokenizer_origin}), copied from "
                f"{self.run_tokenizer}: {', '.join(copied)}"
            )
        if self.carried.made_up:
            report(
                f"{len(self.carried.specs)} tensors that influence no output are not in this "
                f"checkpoint: they are written as zeros, and ones in norms"
            )
        config = self.config
        if self.options.part is Part.complete:
            config = _with_base(config, self.base, has_code=any(folder.glob("*.py")))
        config = self.control_tokens | config
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if stands_alone:
            from owl.hf.stand_alone import complete_folder  # imports transformers, which is slow

            report(f"to stand alone: {', '.join(complete_folder(folder))}")
        if self.options.part is Part.complete and tokenizer_problem(folder):
            report(
                "no tokenizer: name a folder that has the model's with --base "
                f"({self.tokenizer_origin})"
            )
        card = model_card(
            self.checkpoint, self.model, self.family, self.options.part, self.specs,
            base=self.base, stands_alone=stands_alone,
        )  # fmt: skip
        (folder / "README.md").write_text(card, encoding="utf-8")

    def _stands_alone(self, report: Callable[[str], None]) -> bool:
        """Whether the folder gets the code that loads it; report why a complete model does not."""
        if not self.options.with_code or self.options.part is not Part.complete:
            return False
        if find_spec("transformers") is None:
            report("no code: copying it needs transformers. Install it, or use --without-code.")
            return False
        from owl.hf import AUTO_CLASSES  # imports transformers, which is slow

        if self.config["model_type"] not in AUTO_CLASSES:
            report(f"no code: owl.hf has none for model_type={self.config['model_type']}")
            return False
        return True

    def _specs(self) -> Iterator[tuple[str, TensorSpec]]:
        """Yield what is written, under the names it gets."""
        dtypes = {name: spec.dtype for name, spec in self.carried.specs.items()}
        for entry in self.table.entries:
            dtypes |= dict.fromkeys(entry.published, self.weights.specs[entry.ours].dtype)
        shapes = self.table.shapes
        for name, new in self.names.items():
            if name in dtypes:  # a carried tensor may be missing
                yield new, TensorSpec(shapes[name], self.options.dtype or dtypes[name])


class _CarriedWeights:
    """Published tensors that influence no output: as imported, or neutral where none were.

    A model that was never imported has none. Loaders ask for all names, so with `makes_up` they are
    zeros then, which makes a layer the identity, and ones in the norms.
    """

    def __init__(
        self, checkpoint: Path, table: WeightTable, dtype: torch.dtype, *, makes_up: bool
    ) -> None:
        path = checkpoint / CARRIED
        is_stored = path.is_file() or not makes_up
        self._reader = WeightReader(*[path] * path.is_file()) if is_stored else None
        self.made_up = self._reader is None and bool(table.carried)
        self.specs: Mapping[str, TensorSpec] = (
            self._reader.specs
            if self._reader
            else {name: TensorSpec(shape, dtype) for name, shape in table.carried.items()}
        )

    def read(self, name: str) -> Tensor:
        """Read or make one tensor."""
        if self._reader:
            return self._reader.read(name)
        spec = self.specs[name]
        is_scale = "norm" in name and name.endswith("weight")
        return torch.full(spec.shape, float(is_scale), dtype=spec.dtype)


def _copy_files(
    base: Path | None, patterns: tuple[str, ...], folder: Path, skipped: tuple[str, ...]
) -> list[str]:
    """Copy the files that match a pattern and none of `skipped`; returns their names."""
    copied = []
    for path in sorted(base.iterdir()) if base else []:
        matches = any(fnmatch(path.name, pattern) for pattern in patterns)
        if matches and path.is_file() and not any(fnmatch(path.name, one) for one in skipped):
            shutil.copyfile(path, folder / path.name)
            copied.append(path.name)
    return copied


def _with_base(config: dict[str, Any], base: Path | None, *, has_code: bool) -> dict[str, Any]:
    """Add fields that only the base folder's config.json has, such as control token ids."""
    path = base / "config.json" if base else None
    if path is None or not path.is_file():
        return config
    theirs = json.loads(path.read_text(encoding="utf-8"))
    # Newer transformers' names of fields that are written here under their older names.
    for renamed in ("dtype", "rope_parameters", "transformers_version"):
        theirs.pop(renamed, None)
    if not has_code:
        theirs.pop("auto_map", None)
    nested = {
        name: theirs.get(name, {}) | fields
        for name, fields in config.items()
        if isinstance(fields, dict)
    }
    return theirs | config | nested


def _control_tokens(folder: Path | None, part: ExportPart, model: ModelConfig) -> dict[str, int]:
    """Return the ids of the control tokens, where a tokenizer is copied."""
    if folder is None or tokenizer_problem(folder):
        return {}
    begin, end = part.control_tokens
    tokenizer = load_tokenizer(folder, reading_of(model).controls)
    if tokenizer.vocab_size > model.vocab_size:
        raise CheckpointError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} ids, the model only "
            f"{model.vocab_size} rows. Name that of the model as --base."
        )
    return {
        "bos_token_id": tokenizer.control_id(begin),
        "eos_token_id": tokenizer.control_id(end),
    }
