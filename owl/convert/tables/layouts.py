# SPDX-License-Identifier: Apache-2.0
"""Pure tensor re-layouts between published checkpoints and the training model.

All work on weights [rows, in] and on biases [rows] alike: only rows move.
"""

import torch
from torch import Tensor


def merge_qkv(query: Tensor, key: Tensor, value: Tensor, num_kv_heads: int) -> Tensor:
    """Interleave rows group by group: a key-value head's queries, its key, its value.

    Args:
        query: [a * d, ..] projection rows, head after head.
        key: [k * d, ..] likewise.
        value: [k * d, ..] likewise.
        num_kv_heads: k.

    Returns:
        [(a + 2 k) * d, ..]: a tensor-parallel rank's slice holds complete groups.
    """
    groups = [part.unflatten(0, (num_kv_heads, -1)) for part in (query, key, value)]
    return torch.cat(groups, dim=1).flatten(0, 1)


def split_qkv(merged: Tensor, num_heads: int, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Undo merge_qkv."""
    per_group = num_heads // num_kv_heads
    rows = merged.unflatten(0, (num_kv_heads, per_group + 2, -1))  # [k, a/k + 2, d, ..]
    query, key, value = rows[:, :per_group], rows[:, per_group], rows[:, per_group + 1]
    return query.flatten(0, 2), key.flatten(0, 1), value.flatten(0, 1)


def merge_gate_up(gate: Tensor, up: Tensor) -> Tensor:
    """Stack the two halves of SwiGLU's input projection: [f, h], [f, h] to [2 f, h]."""
    return torch.cat([gate, up])


def split_gate_up(merged: Tensor) -> tuple[Tensor, Tensor]:
    """Undo merge_gate_up."""
    gate, up = merged.chunk(2)
    return gate, up


def merge_media_kv(key: Tensor, value: Tensor, num_kv_heads: int) -> Tensor:
    """Interleave key and value rows as the published v_kv_proj does: per head, key before value.

    Args:
        key: [k * d, ..] projection rows, head after head.
        value: [k * d, ..] likewise.
        num_kv_heads: k.

    Returns:
        [2 * k * d, ..], viewed as (k, 2, d, ..).
    """
    per_head = [part.unflatten(0, (num_kv_heads, -1)) for part in (key, value)]
    return torch.stack(per_head, dim=1).flatten(0, 2)


def split_media_kv(merged: Tensor, num_kv_heads: int) -> tuple[Tensor, Tensor]:
    """Undo merge_media_kv."""
    key, value = merged.unflatten(0, (num_kv_heads, 2, -1)).unbind(dim=1)
    return key.flatten(0, 1), value.flatten(0, 1)
