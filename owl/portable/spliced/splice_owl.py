# SPDX-License-Identifier: Apache-2.0
"""Where pictures are in a text whose placeholder tokens they replace.

A picture of k vectors has k placeholder tokens in a row. Their ids are any valid ones, since their
embeddings are replaced; `media_offset` says where they are. The published code marks them by
negative ids instead, which read_marks converts.

Letters: b rows, q tokens, m tiles of the batch, k vectors of a tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from owl.portable.loss_owl import IGNORE_INDEX

Offsets = Sequence[Tensor | Sequence[int] | None] | Tensor | None
"""For each row, the index of each picture's first placeholder, counted from the first token that is
not padding; a tensor [b, pictures] if all rows have as many."""


@dataclass(frozen=True)
class Tokens:
    """The text of a batch."""

    input_ids: Tensor | None  # [b, q]; None if it comes as vectors
    attention_mask: Tensor | None  # [b, q], 0 at padding
    labels: Tensor | None  # [b, q]
    media_offset: Offsets = None


@dataclass(frozen=True)
class Spliced:
    """A batch with its pictures in place."""

    input_ids: Tensor | None  # [b, q]
    attention_mask: Tensor | None  # [b, cached + q]
    labels: Tensor | None  # [b, q]
    embeddings: Tensor  # [b, q, h]
    is_media: Tensor | None  # [b, q] bool; None without pictures


def read_marks(tokens: Tokens, keys: int, *, ids_per_picture: int) -> Tokens:
    """Convert negative ids to placeholders and their places; other tokens are returned as they are.

    Args:
        tokens: a batch in the published form.
        keys: k.
        ids_per_picture: 1 or k, negative ids that stand for one picture.

    Raises:
        ValueError: media_offset came as well, or negative ids stand for part of a picture.
    """
    ids = tokens.input_ids
    if ids is None or not bool((ids < 0).any()):
        return tokens
    if tokens.media_offset is not None:
        raise ValueError(
            "input_ids holds negative ids, which mark pictures, and media_offset came as well: "
            "pass one of the two forms."
        )
    mask = torch.ones_like(ids) if tokens.attention_mask is None else tokens.attention_mask
    labels = torch.full_like(ids, IGNORE_INDEX) if tokens.labels is None else tokens.labels
    real = mask.bool()
    rows = [
        _read_row(row[kept].tolist(), targets[kept].tolist(), keys, ids_per_picture)
        for row, targets, kept in zip(ids, labels, real, strict=True)
    ]
    longest = max(len(row_ids) for row_ids, _, _ in rows)
    # Rows that begin with padding still do.
    starts = [
        longest - len(row_ids) if kept.numel() and not kept[0] else 0
        for (row_ids, _, _), kept in zip(rows, real, strict=True)
    ]
    shape = (len(rows), longest)
    new_ids, new_mask = ids.new_zeros(shape), mask.new_zeros(shape)
    new_labels = labels.new_full(shape, IGNORE_INDEX)
    for index, ((row_ids, targets, _), start) in enumerate(zip(rows, starts, strict=True)):
        part = slice(start, start + len(row_ids))
        new_ids[index, part], new_mask[index, part] = ids.new_tensor(row_ids), 1
        new_labels[index, part] = labels.new_tensor(targets)
    return Tokens(
        new_ids,
        None if bool(new_mask.all()) else new_mask,
        None if tokens.labels is None else new_labels,
        [offsets for _, _, offsets in rows],
    )


def _read_row(
    ids: list[int], labels: list[int], keys: int, ids_per_picture: int
) -> tuple[list[int], list[int], list[int]]:
    """Return a row's ids and labels with placeholders, and the place of each picture."""
    new_ids: list[int] = []
    new_labels: list[int] = []
    offsets: list[int] = []
    index = 0
    while index < len(ids):
        if ids[index] >= 0:
            new_ids.append(ids[index])
            new_labels.append(labels[index])
            index += 1
            continue
        marks = ids[index : index + ids_per_picture]
        if len(marks) < ids_per_picture or max(marks) >= 0:
            count = sum(mark < 0 for mark in marks)
            raise ValueError(
                f"input_ids marks a picture by {count} negative ids at token {index}, but each has "
                f"{ids_per_picture}."
            )
        offsets.append(len(new_ids))
        new_ids += [0] * keys
        new_labels += [IGNORE_INDEX] * keys
        index += ids_per_picture
    return new_ids, new_labels, offsets


def media_rows(tokens: Tokens, shape: tuple[int, int], pictures: int, keys: int) -> Tensor:
    """Find the tokens that pictures replace.

    Args:
        tokens: a batch.
        shape: b and q.
        pictures: m.
        keys: k.

    Returns:
        [b, q] bool; in the order of tokens, m times k are True.

    Raises:
        ValueError: media_offset does not fit the rows, their lengths or the pictures.
    """
    offsets = read_offsets(tokens.media_offset)
    counts = [len(row) for row in offsets]
    if sum(counts) != pictures:
        raise ValueError(
            f"pixel_values holds {pictures} pictures but media_offset lists {sum(counts)} "
            f"({counts} by row). Pass both as the processor returned them."
        )
    if len(offsets) != shape[0]:
        raise ValueError(
            f"media_offset lists {len(offsets)} rows for {shape[0]} rows of input_ids. Give one "
            "list for each row, empty for a row without pictures."
        )
    starts, lengths = _real_parts(tokens.attention_mask, shape)
    rows = torch.zeros(shape, dtype=torch.bool)
    for index, places in enumerate(offsets):
        for place, following in zip(places, [*places, lengths[index]][1:], strict=True):
            if place < 0 or place + keys > following:
                raise ValueError(
                    f"media_offset puts a picture at token {place} of row {index}, but its {keys} "
                    f"placeholders do not fit before token {following}. Pass the processor's "
                    "output as it is: a row that was cut off has lost placeholders."
                )
            rows[index, starts[index] + place : starts[index] + place + keys] = True
    return rows


def _real_parts(
    attention_mask: Tensor | None, shape: tuple[int, int]
) -> tuple[list[int], list[int]]:
    """Return each row's first token that is not padding, and the number of its tokens."""
    if attention_mask is None:
        return [0] * shape[0], [shape[1]] * shape[0]
    mask = attention_mask.int()
    return mask.argmax(dim=1).tolist(), mask.sum(dim=1).tolist()


def read_offsets(media_offset: Offsets) -> list[list[int]]:
    """Convert any form of media_offset to a list for each row; empty if there is none."""
    rows = () if media_offset is None else media_offset
    return [[] if row is None else torch.as_tensor(row).reshape(-1).tolist() for row in rows]


def splice(embeddings: Tensor, rows: Tensor, features: Tensor) -> Tensor:
    """Replace the embeddings of placeholders by the vectors of pictures.

    Args:
        embeddings: [b, q, h].
        rows: [b, q] bool, of media_rows.
        features: [m, k, h].

    Returns:
        [b, q, h].
    """
    vectors = features.flatten(0, 1).to(embeddings)
    return embeddings.masked_scatter(rows[..., None], vectors)
