# SPDX-License-Identifier: Apache-2.0
"""Stored cases of a published model, read to packs of the training model.

A folder holds `config.json`, `model.safetensors`, `index.json`, and for each case
`CASE.safetensors` (inputs and outputs) and `CASE.grads.safetensors`. A gradient that is missing
means zero; a case without images has no `pixel_values`; one without logits is skipped.

Where vectors of pictures stand in the text, ids say so as the published code reads them: -200 once
for each picture, which takes `keys_per_tile` rows of what is stored, or -1 in each of these rows.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from owl.config.run import ModelConfig
from owl.convert.families import family_of_folder
from owl.data.collate import cumulative
from owl.data.samples import IGNORE_INDEX, PackedBatch
from owl.errors import CheckpointError

ONE_FOR_ALL = -200
ONE_EACH = -1
LABELS = ("labels_masked", "labels")


@dataclass(frozen=True)
class Case:
    """One stored case: rows of tokens, their images, and what the published model computed."""

    name: str
    tensors: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor] | None
    image_positions: list[list[int]]

    @property
    def rows(self) -> list[slice]:
        """The real tokens of each row: padding, left or right, is not computed here."""
        tokens = self.tensors["input_ids"]
        mask = self.tensors.get("attention_mask", torch.ones_like(tokens)).bool()
        found = [row.nonzero().flatten() for row in mask]
        return [slice(int(real[0]), int(real[-1]) + 1) for real in found]


@dataclass(frozen=True)
class Row:
    """One row of a case as the training model reads it, without padding."""

    tokens: Tensor  # [t]
    labels: Tensor  # [t], of the next token
    offsets: list[int]  # of each tile's first placeholder token
    tiles: Tensor  # [m, 3, s, s]
    logits: Tensor  # [t, v], as stored


def load_folder(folder: Path) -> tuple[ModelConfig, dict[str, Tensor], list[Case]]:
    """Read a golden folder: model config, published weights, cases."""
    for name in ("config.json", "model.safetensors", "index.json"):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name} does not exist. A golden folder holds config.json, "
                f"model.safetensors, index.json and a CASE.safetensors for each case."
            )
    weights = load_file(folder / "model.safetensors")
    about = json.loads((folder / "config.json").read_text())
    family = family_of_folder(about, weights.keys(), folder)
    config = family.read_config(about, weights.keys(), folder.name)
    index = json.loads((folder / "index.json").read_text())
    return config, weights, [_load_case(folder, name, about) for name, about in index.items()]


def _load_case(folder: Path, name: str, about: Mapping[str, Any]) -> Case:
    path, gradients = folder / f"{name}.safetensors", folder / f"{name}.grads.safetensors"
    tensors = load_file(path) if path.is_file() else {}
    rows = len(tensors.get("input_ids", ()))
    positions = about.get("image_positions") or [[] for _ in range(rows)]
    return Case(
        name=name,
        tensors=tensors,
        gradients=load_file(gradients) if gradients.is_file() else None,
        image_positions=[list(row or []) for row in positions],
    )


def rows_of(case: Case, config: ModelConfig) -> list[Row]:
    """Read the rows of a case, each with its own pictures."""
    labels = next((case.tensors[name] for name in LABELS if name in case.tensors), None)
    size = config.vision_tower.image_size
    pixels = case.tensors.get("pixel_values", torch.zeros(0, 3, size, size))
    texts = []
    for index, real in enumerate(case.rows):
        tokens = case.tensors["input_ids"][index, real]
        ignored = torch.full_like(tokens, IGNORE_INDEX)
        label = ignored if labels is None else labels[index, real].long()
        tokens, label, offsets = _spelled_out(tokens, label, config.keys_per_tile)
        if offsets is None:
            offsets = [position - real.start for position in case.image_positions[index]]
        stored = case.tensors["logits"][index, real.start : real.start + len(tokens)]
        texts.append((tokens, torch.cat([label[1:], ignored[:1]]), offsets, stored))
    counts = _pictures_of(case, [offsets for _, _, offsets, _ in texts], len(pixels))
    starts = [0, *accumulate(counts)]
    return [
        Row(tokens, label, offsets, pixels[start : start + len(offsets)], stored)
        for (tokens, label, offsets, stored), start in zip(texts, starts, strict=False)
    ]


def _spelled_out(
    tokens: Tensor, labels: Tensor, vectors: int
) -> tuple[Tensor, Tensor, list[int] | None]:
    """Give a spliced tile valid ids, one for each of its vectors; None where none is spliced."""
    if not bool((tokens < 0).any()):
        return tokens, labels, None
    if bool((tokens == ONE_FOR_ALL).any()):
        times = torch.where(tokens == ONE_FOR_ALL, vectors, 1)
        tokens, labels = tokens.repeat_interleave(times), labels.repeat_interleave(times)
        media = tokens == ONE_FOR_ALL
        offsets = media.nonzero().flatten().tolist()[::vectors]
        return tokens.masked_fill(media, 0), labels.masked_fill(media, IGNORE_INDEX), offsets
    # The published code finds a tile where a run begins, and looks up id 1 for what is left over.
    media = tokens == ONE_EACH
    begins = media & ~torch.cat([media.new_zeros(1), media[:-1]])
    return tokens.masked_fill(media, 1), labels, begins.nonzero().flatten().tolist()


def _pictures_of(case: Case, offsets: Sequence[Sequence[int]], pictures: int) -> Iterator[int]:
    """Yield how many of the stored pictures belong to each row, used or not."""
    counts = case.tensors.get("num_images")
    used = [len(found) for found in offsets]
    # Among rows with pictures, one of text only may have a picture that nothing looks at.
    unused = pictures > sum(used)
    for index, count in enumerate(used):
        yield int(counts[index]) if counts is not None else count or int(unused)


def pack_rows(rows: Sequence[Row], name: str) -> PackedBatch:
    """Lay rows of a case end to end."""
    offsets = [row.offsets for row in rows]
    lengths = [len(row.tokens) for row in rows]
    labels = torch.cat([row.labels for row in rows])
    return PackedBatch(
        tokens=torch.cat([row.tokens for row in rows]),
        labels=labels,
        loss_weights=(labels != IGNORE_INDEX).float(),
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        cu_seqlens=cumulative(lengths),
        pixel_values=torch.cat([row.tiles for row in rows]),
        flat_media_offset=torch.tensor([o for row in offsets for o in row]).long(),
        cu_media=cumulative([len(row) for row in offsets]),
        seqlens=tuple(lengths),
        media_offset=offsets,
        keys=tuple(f"{name}[{index}]" for index in range(len(rows))),
    )
