# SPDX-License-Identifier: Apache-2.0
"""Adapters of a checkpoint: merged into its weights, or as a folder of peft, and back."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from owl.checkpoint.folder import resolve_checkpoint
from owl.checkpoint.load import load_lora_config, load_model_config
from owl.checkpoint.stream import CheckpointTensors
from owl.checkpoint.tensor_spec import TensorSpec
from owl.config.run import LoraConfig, LoraTarget
from owl.convert.families import PUBLISHED, weight_table
from owl.convert.files.atomic_folder import atomic_folder, check_free
from owl.convert.files.reader import WeightReader
from owl.convert.tables.table import Entry, Shape, WeightTable
from owl.errors import CheckpointError
from owl.model.freeze import part_of
from owl.model.lora import ADAPTERS, is_adapter, pair_names, target_of

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    **dict.fromkeys(("use_dora", "use_rslora", "fan_in_fan_out", "lora_bias"), (False, None)),
    **dict.fromkeys(
        (
            *("rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication"),
            *("trainable_token_indices", "target_parameters"),
        ),
        (None, {}, []),
    ),
}
"""Fields of adapter_config.json and the values that describe plain LoRA; others may be missing."""


@dataclass(frozen=True)
class Pair:
    """The two matrices on one published projection."""

    ours: str  # name of both in our model, without "_a" and "_b"
    module: str  # the projection's name in the published model
    target: LoraTarget
    shape: Shape  # of the projection: [out, in]

    @property
    def a(self) -> str:
        """Name of A, [r, in], in our model."""
        return f"{self.ours}_a"

    @property
    def b(self) -> str:
        """Name of B, [out, r], in our model."""
        return f"{self.ours}_b"

    def published(self, rank: int) -> dict[str, tuple[str, Shape]]:
        """Map peft's names to ours and to shapes."""
        rows, columns = self.shape
        return {
            f"{_PREFIX}{self.module}.lora_A.weight": (self.a, (rank, columns)),
            f"{_PREFIX}{self.module}.lora_B.weight": (self.b, (rows, rank)),
        }


def pairs_of(entry: Entry, targets: Collection[LoraTarget]) -> list[Pair]:
    """List the pairs on one training weight, in the order of its published projections."""
    path, _, kind = entry.ours.rpartition(".")
    layer = path.rpartition(".")[2]
    if kind != "weight" or not layer.startswith("linear"):
        return []
    names = pair_names(layer, len(entry.published))
    pairs = [
        Pair(
            f"{path}.{ADAPTERS}.{name}", published[: -len(".weight")], target_of(path, name), shape
        )
        for name, published, shape in zip(names, entry.published, entry.shapes, strict=True)
    ]
    return [pair for pair in pairs if pair.target in targets]


def _module(weight: str) -> str:
    return weight.removesuffix(".weight")


class MergedTensors:
    """A checkpoint's weights with its adapters added; reads like CheckpointTensors.

    Args:
        checkpoint: its folder.
        table: of the model.
    """

    def __init__(self, checkpoint: Path, table: WeightTable) -> None:
        self._tensors = CheckpointTensors(checkpoint)
        self._lora = load_lora_config(checkpoint)
        self._entries = {
            entry.ours: entry
            for entry in table.entries
            if self._lora.is_on and pairs_of(entry, self._lora.targets)
        }
        self.specs = {n: spec for n, spec in self._tensors.specs.items() if not is_adapter(n)}
        """Name to shape and dtype, without the adapters' own."""

    def read(self, name: str) -> Tensor:
        """Read one weight."""
        return self._added(name)(0, self._tensors.read(name))

    def pieces(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Read one weight in pieces of complete rows: number of the first row, and rows."""
        add = self._added(name)
        for first, piece in self._tensors.pieces(name):
            yield first, add(first, piece)
            del piece

    def _added(self, name: str) -> Callable[[int, Tensor], Tensor]:
        """Return what adds the adapters to some rows of a weight, from a first row on."""
        if name not in self._entries:
            return lambda first, rows: rows
        entry, rank = self._entries[name], self._lora.rank
        pairs = {pair.module: pair for pair in pairs_of(entry, self._lora.targets)}
        a = torch.cat([self._tensors.read(pair.a) for pair in pairs.values()])
        # Each projection has its own columns of B; its rows move as the weight's do.
        blocks = []
        for published, shape in zip(entry.published, entry.shapes, strict=True):
            block = torch.zeros(shape[0], len(a), dtype=a.dtype)
            module = _module(published)
            if module in pairs:
                first = list(pairs).index(module) * rank
                block[:, first : first + rank] = self._tensors.read(pairs[module].b)
            blocks.append(block)
        b, wide = entry.to_ours(tuple(blocks)), torch.promote_types(a.dtype, torch.float32)
        a, b = a.to(wide), b.to(wide) * self._lora.scale
        return lambda first, rows: (rows.to(wide) + b[first : first + len(rows)] @ a).to(rows.dtype)


def export_adapter(
    checkpoint: Path,
    output: Path,
    *,
    base: Path | None = None,
    dtype: torch.dtype | None = None,
    replace: bool = False,
) -> dict[str, TensorSpec]:
    """Write a checkpoint's adapters as a folder that peft loads on the exported model.

    Args:
        checkpoint: checkpoint, or run folder whose newest is taken.
        output: folder to write; it appears when it is complete.
        base: folder of the model that the run started from, for adapter_config.json.
        dtype: None keeps the checkpoint's.
        replace: whether an existing `output` may be deleted.

    Returns:
        Name, shape and dtype of the tensors written.

    Raises:
        CheckpointError: the checkpoint has no adapters, or `output` exists.
    """
    check_free(output, replace=replace)
    checkpoint = resolve_checkpoint(checkpoint, "--checkpoint")
    lora, model = load_lora_config(checkpoint), load_model_config(checkpoint)
    if not lora.is_on:
        raise CheckpointError(
            f"{checkpoint} has no adapters: it was trained without lora=. Export it without "
            f"--adapter."
        )
    stored = CheckpointTensors(checkpoint)
    tensors: dict[str, Tensor] = {}
    modules: list[str] = []
    saved: list[str] = []
    for entry in weight_table(PUBLISHED[model.family], model).entries:
        for pair in pairs_of(entry, lora.targets):
            modules.append(pair.module)
            for name, (ours, _) in pair.published(lora.rank).items():
                tensors[name] = stored.read(ours).to(dtype).contiguous()
        if part_of(entry.ours) in lora.also_train:
            saved += [name.rpartition(".")[0] for name in entry.published]
            whole = stored.read(entry.ours)[: entry.our_shape[0]].to(dtype)
            for name, tensor in zip(entry.published, entry.to_published(whole), strict=True):
                tensors[_PREFIX + name] = tensor.contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base) if base else None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "target_modules": modules,  # complete names: some end alike in tower and decoder
        "modules_to_save": _outermost(saved, modules) or None,
        "inference_mode": True,
    }
    with atomic_folder(output, replace=replace) as folder:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return {name: TensorSpec(tuple(t.shape), t.dtype) for name, t in tensors.items()}


def _outermost(saved: Collection[str], adapted: Collection[str]) -> list[str]:
    """Leave out modules that are inside another one of them.

    Raises:
        CheckpointError: one of them holds a projection with adapters: peft cannot have both.
    """
    outer = [m for m in dict.fromkeys(saved) if not any(m.startswith(f"{n}.") for n in saved)]
    for module in outer:
        if not module or any(name.startswith(f"{module}.") for name in adapted):
            raise CheckpointError(
                f"lora.also_train trained weights of {module or 'the model'} itself, and adapters "
                f"are on projections in it, which peft has no form for. Export without --adapter."
            )
    return outer


def read_adapter(
    folder: Path, table: WeightTable, report: Callable[[str], None]
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Read a folder of peft.

    A target counts as a whole here: a projection of it that the folder leaves out gets zeros, which
    add nothing and never learn.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        table: of the model that it belongs to.
        report: receives a line where projections are left out.

    Returns:
        The settings, and tensors by our names.

    Raises:
        CheckpointError: it is incomplete, not plain LoRA, or of another model.
    """
    config = _read_config(folder)
    rank = int(config["r"])
    reader = WeightReader(folder / WEIGHTS)
    # peft also adapts layers whose output is never used.
    unused = tuple(f"{_PREFIX}{_module(name)}.lora_" for name in table.carried)
    found = {n: spec for n, spec in reader.specs.items() if not n.startswith(unused)}
    everything = [pair for entry in table.entries for pair in pairs_of(entry, list(LoraTarget))]
    names = {name: (p, *o) for p in everything for name, o in p.published(rank).items()}
    problems = [
        f"{name} {spec.shape}"
        for name, spec in found.items()
        if name not in names or names[name][2] != spec.shape
    ]
    if problems or not found:
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit the model, or not r={rank} of its config: "
            f"{', '.join(problems[:5])}{' and more' if len(problems) > 5 else ''}. Give it with "
            f"the model that it was trained on."
        )
    targets = {names[name][0].target for name in found}
    wanted = {n: (o, shape) for n, (p, o, shape) in names.items() if p.target in targets}
    missing = [name for name in wanted if name not in found]
    if missing:
        report(f"{len(missing)} tensors that {folder} leaves out are zeros, such as {missing[0]}")
    dtype = next(iter(found.values())).dtype
    tensors = {
        ours: torch.zeros(shape, dtype=dtype) if name in missing else reader.read(name)
        for name, (ours, shape) in wanted.items()
    }
    in_order = [target for target in LoraTarget if target in targets]
    alpha, dropout = float(config["lora_alpha"]), float(config.get("lora_dropout", 0.0))
    return LoraConfig(targets=in_order, rank=rank, alpha=alpha, dropout=dropout), tensors


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"--adapter {folder} lacks {CONFIG} or {WEIGHTS}. Name a folder that peft's "
            f"save_pretrained wrote."
        )
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    unusual = [
        f"{field}={config[field]}"
        for field, plain in _NEUTRAL.items()
        if field in config and config[field] not in plain
    ]
    if unusual or "r" not in config or "lora_alpha" not in config:
        raise CheckpointError(
            f"{path} is not plain LoRA: {', '.join(unusual) or 'r or lora_alpha is missing'}. "
            f"Merge it with peft's merge_and_unload, and import the merged model."
        )
    return config
