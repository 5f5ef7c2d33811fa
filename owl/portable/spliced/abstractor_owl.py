# SPDX-License-Identifier: Apache-2.0
"""The visual abstractor in plain torch, under its published names.

A few learned queries read the features of a tile, layer after layer, and stand for it in the text,
followed by an end vector.

Letters: m tiles, f features of a tile, n queries, h_v width of the tower, h of the decoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

NORM_EPS = 1e-5
"""Of all norms but the one inside the MLP, whatever the config says, as published."""
POSITION_TABLES = r"\.[qk]_pos_embed$"
"""Tensors of the position tables: constants, which some published folders hold."""


@dataclass(frozen=True, kw_only=True)
class AbstractorSizes:
    """Sizes of the abstractor under their published names.

    Args:
        num_learnable_queries: n.
        attention_probs_dropout_prob: of attention weights, in training mode.
        layer_norm_eps: of the norm inside the MLP.
    """

    hidden_size: int = 1024
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    intermediate_size: int = 2816
    num_learnable_queries: int = 64
    attention_probs_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-6

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "AbstractorSizes":
        """Read the abstractor's part of a config.json."""
        return cls(**{size.name: config[size.name] for size in fields(cls) if size.name in config})


class OwlAbstractorAttention(nn.Module):
    """The projections of queries, keys and values."""

    def __init__(self, sizes: AbstractorSizes) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.num_heads, self.dropout = sizes.num_attention_heads, sizes.attention_probs_dropout_prob
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Let [m, n, h_v] attend to [m, n + f, h_v]."""
        queries, keys, values = (
            projection(rows).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, rows in ((self.query, query), (self.key, key), (self.value, value))
        )
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        return attended.transpose(1, 2).flatten(2)


class OwlAbstractorMLP(nn.Module):
    """SwiGLU with a norm over its inner width."""

    def __init__(self, sizes: AbstractorSizes) -> None:
        super().__init__()
        width, inner = sizes.hidden_size, sizes.intermediate_size
        self.w1, self.w3 = nn.Linear(width, inner), nn.Linear(width, inner)
        self.w2 = nn.Linear(inner, width)
        self.ffn_ln = nn.LayerNorm(inner, eps=sizes.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [m, n, h_v] to the same shape."""
        inner = F.silu(self.w1(hidden_states)) * self.w3(hidden_states)
        return self.w2(self.ffn_ln(inner))


class OwlAbstractorOutput(nn.Module):
    """What follows attention."""

    def __init__(self, sizes: AbstractorSizes) -> None:
        super().__init__()
        self.out_proj = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.norm2 = nn.LayerNorm(sizes.hidden_size, eps=NORM_EPS)
        self.mlp = OwlAbstractorMLP(sizes)

    def forward(self, queries: Tensor, attended: Tensor) -> Tensor:
        """Add what was read to the queries, then the MLP."""
        queries = queries + self.out_proj(attended)
        return queries + self.mlp(self.norm2(queries))


class OwlCrossAttention(nn.Module):
    """The queries attend to themselves and to the tile's features, which stay as they are."""

    def __init__(self, sizes: AbstractorSizes) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.hidden_size, eps=NORM_EPS)
        self.normk = nn.LayerNorm(sizes.hidden_size, eps=NORM_EPS)
        self.attention = OwlAbstractorAttention(sizes)
        self.output = OwlAbstractorOutput(sizes)

    def forward(self, queries: Tensor, features: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Read a tile once more: [m, n, h_v] of the layer below to the same shape."""
        queries = self.norm1(queries)  # the residual starts here, as published
        seen = torch.cat([queries, self.normk(features)], dim=1)
        attended = self.attention(queries + tables[0], seen + torch.cat(tables), seen)
        return self.output(queries, attended)


class OwlAbstractorLayer(GradientCheckpointingLayer):
    """One layer, under its published name."""

    def __init__(self, sizes: AbstractorSizes) -> None:
        super().__init__()
        self.crossattention = OwlCrossAttention(sizes)

    def forward(self, queries: Tensor, features: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """See OwlCrossAttention."""
        return self.crossattention(queries, features, tables)


class OwlAbstractorEncoder(nn.Module):
    """The layers."""

    def __init__(self, sizes: AbstractorSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            OwlAbstractorLayer(sizes) for _ in range(sizes.num_hidden_layers)
        )


class OwlAbstractor(nn.Module):
    """Features of tiles to vectors of the decoder.

    Args:
        sizes: of the abstractor.
        output_size: h.
        side: patches along one side of a tile.
        positions: add position tables to what is compared, not to what is read.
        queries: hold the queries here; otherwise they are passed to forward.
    """

    def __init__(
        self, sizes: AbstractorSizes, output_size: int, side: int, *, positions: bool, queries: bool
    ) -> None:
        super().__init__()
        self.sizes, self.side, self.positions = sizes, side, positions
        width = sizes.hidden_size
        if queries:
            self.query_embeds = nn.Parameter(torch.zeros(1, sizes.num_learnable_queries, width))
        self.encoder = OwlAbstractorEncoder(sizes)
        self.visual_fc = nn.Linear(width, output_size)
        self.vit_eos = nn.Parameter(torch.zeros(1, 1, output_size))

    def forward(self, features: Tensor, queries: Tensor | None = None) -> Tensor:
        """Read the features of tiles.

        Args:
            features: [m, f, h_v], the class token's first.
            queries: [1, n, h_v], unless they are held here.

        Returns:
            [m, n + 1, h].
        """
        rows = self.query_embeds if queries is None else queries
        rows = rows.expand(len(features), -1, -1)
        tables = self._tables(features)
        for layer in self.encoder.layers:
            rows = layer(rows, features, tables)
        ends = self.vit_eos.expand(len(features), -1, -1)
        projected = self.visual_fc(rows)
        return torch.cat([projected, ends.to(projected.device)], dim=1)

    def _tables(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the positions of queries [n, h_v] and of features [f, h_v]."""
        count, width = self.sizes.num_learnable_queries, features.shape[2]
        if not self.positions:
            nothing = features.new_zeros(())
            return nothing.expand(count, width), nothing.expand(features.shape[1], width)
        patch = torch.arange(self.side**2)
        grid = [sines(patch % self.side, width // 2), sines(patch // self.side, width // 2)]
        keys = F.pad(torch.cat(grid, dim=1), (0, 0, features.shape[1] - len(patch), 0))
        return sines(torch.arange(count), width).to(features), keys.to(features)


def sines(places: Tensor, width: int) -> Tensor:
    """Encode places as sines, then cosines (halves, not interleaved): [places, width] float64."""
    frequencies = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = places.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
