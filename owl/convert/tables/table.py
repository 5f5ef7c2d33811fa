# SPDX-License-Identifier: Apache-2.0
"""Tables of weights in three columns: published name, our name, published shape.

A table is a list of rows. `expand` turns its rows into entries, one for each weight of the training
model:

- `{p}` in the names stands for a weight and a bias; the bias has the weight's first dimension.
- Braces in the published name stand for several tensors that are merged into one weight, by the
  first letters of what they hold: `{q_proj,k_proj,v_proj}`, `{k,v}`, `{gate,up}`. Braces in the
  shape give each its own: `{q,k,k} h`.
- A shape is written in letters and numbers, `2k h`; the caller gives the size of each letter.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from operator import itemgetter
from typing import TypeAlias

import torch
from torch import Tensor

from owl.convert.tables import layouts

Row: TypeAlias = tuple[str, str, str]
Shape: TypeAlias = tuple[int, ...]
Tensors: TypeAlias = tuple[Tensor, ...]

_BRACES = re.compile(r"\{(.+?)\}")


@dataclass(frozen=True)
class Entry:
    """One weight of the training model and the published tensors that it is made of."""

    ours: str
    published: tuple[str, ...]
    shapes: tuple[Shape, ...]  # of the published tensors
    to_ours: Callable[[Tensors], Tensor]  # moves rows, never values
    to_published: Callable[[Tensor], Tensors]  # its inverse

    @property
    def our_shape(self) -> Shape:
        """Shape of the weight, without the padding of a vocabulary."""
        parts = tuple(torch.empty(shape, device="meta") for shape in self.shapes)
        return tuple(self.to_ours(parts).shape)


@dataclass(frozen=True)
class WeightTable:
    """Every tensor of one published model."""

    entries: tuple[Entry, ...]
    carried: Mapping[str, Shape]
    """Published tensors that influence no output. They may be missing from a folder; those that
    are there are kept for export."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of every published tensor by name, in the order of an export."""
        return published_shapes(self.entries) | dict(self.carried)


def published_shapes(entries: Sequence[Entry]) -> dict[str, Shape]:
    """Return the shape of each published tensor of some entries, by name."""
    return {
        name: shape
        for entry in entries
        for name, shape in zip(entry.published, entry.shapes, strict=True)
    }


def expand(
    table: Sequence[Row], published: str, ours: str, sizes: Mapping[str, int]
) -> Iterator[Entry]:
    """Yield the entries of a table.

    Args:
        table: rows of published name, our name and shape.
        published: prefix of the published names.
        ours: prefix of our names.
        sizes: the number behind each letter of the shapes. Rows that merge queries, keys or values
            need q, k and d: query rows, key rows, and rows of one head.
    """
    for theirs, our, shape in table:
        for p in ("weight", "bias") if "{p}" in theirs else ("",):
            names = _alternatives(published + theirs.replace("{p}", p))
            dimensions = shape.split()[0] if p == "bias" else shape
            shapes = tuple(_numbers(text, sizes) for text in _alternatives(dimensions))
            yield Entry(
                ours + our.replace("{p}", p),
                names,
                shapes * (len(names) // len(shapes)),
                *_layout(theirs.replace("{p}", p), sizes),
            )


def _alternatives(text: str) -> tuple[str, ...]:
    """Write braces out: `{q,k}_proj` to `q_proj` and `k_proj`."""
    match = _BRACES.search(text)
    if match is None:
        return (text,)
    return tuple(text.replace(match[0], choice) for choice in match[1].split(","))


def _numbers(shape: str, sizes: Mapping[str, int]) -> Shape:
    """Put numbers in for letters: `2k h` to (2 * k, h)."""
    return tuple(
        prod(int(part) if part.isdigit() else sizes[part] for part in re.findall(r"\d+|\w", each))
        for each in shape.split()
    )


def _layout(
    published: str, sizes: Mapping[str, int]
) -> tuple[Callable[[Tensors], Tensor], Callable[[Tensor], Tensors]]:
    """Choose how the tensors of a row are merged, and how they are split again."""
    match = _BRACES.search(published)
    if match is None:
        return itemgetter(0), lambda weight: (weight,)
    letters = "".join(part[0] for part in match[1].split(","))
    if letters == "gu":
        return lambda parts: layouts.merge_gate_up(*parts), layouts.split_gate_up
    heads, groups = sizes["q"] // sizes["d"], sizes["k"] // sizes["d"]
    if letters == "qkv":
        return (
            partial(_merge_qkv, num_kv_heads=groups),
            partial(layouts.split_qkv, num_heads=heads, num_kv_heads=groups),
        )
    assert letters == "kv", f"{published}: no layout merges these"
    return (
        lambda parts: layouts.merge_media_kv(parts[0], parts[1], groups),
        partial(layouts.split_media_kv, num_kv_heads=groups),
    )


def _merge_qkv(parts: Tensors, num_kv_heads: int) -> Tensor:
    query, key, value = parts
    return layouts.merge_qkv(query, key, value, num_kv_heads)
