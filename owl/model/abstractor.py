# SPDX-License-Identifier: Apache-2.0
"""The visual abstractor of mPLUG-Owl2 (arXiv 2311.04257; formulas as released) as a projector.

A few learned queries read the patches of a tile, layer after layer, and stand for it from then on:
64 queries and one end vector in place of 729 patches.

Whole on every rank of a tensor group: the norm inside its MLP spans the MLP's full width, so a
sharded one would need two collectives more a layer, for 80 M weights. Its input and the gradient of
its output are the same on every rank, and so are its gradients: nothing has to be reduced.
"""

import torch
import torch.nn.functional as F
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from owl.config.run import AbstractorConfig, ModelConfig

LAYER_NORM_EPS = 1e-5  # of every norm but the one inside the MLP


class VisualAbstractor(MegatronModule):
    """Tiles of p patches to tiles of q + 1 keys.

    Args:
        config: of the decoder: number format and initialisation.
        model: widths and sizes.
        pg_collection: unused; every projector is given it.
    """

    def __init__(
        self, config: TransformerConfig, model: ModelConfig, pg_collection: ProcessGroupCollection
    ) -> None:
        super().__init__(config=config)
        sizes, tower = model.abstractor, model.vision_tower
        dtype, width = config.params_dtype, tower.hidden_size
        self.features_per_tile = tower.features_per_tile
        self.queries = nn.Parameter(torch.empty(1, sizes.num_queries, width, dtype=dtype))
        self.layers = nn.ModuleList(
            AbstractorLayer(width, sizes, dtype) for _ in range(sizes.num_layers)
        )
        self.linear_out = nn.Linear(width, model.hidden_size, dtype=dtype)
        self.end_vector = nn.Parameter(torch.empty(1, 1, model.hidden_size, dtype=dtype))
        self._initialise(config)
        side = tower.image_size // tower.patch_size
        queries = positions(torch.arange(sizes.num_queries), width)
        features = F.pad(grid_positions(side, width), (0, 0, tower.class_tokens, 0))
        used = float(sizes.positions)  # nothing is added where there are none
        # Constants: no checkpoint needs to hold them.
        self.register_buffer("query_positions", (queries * used).to(dtype), persistent=False)
        self.register_buffer("patch_positions", (features * used).to(dtype), persistent=False)

    def forward(self, image_features: Tensor) -> Tensor:
        """Map [m * p, 1, h_v] to [m * (q + 1), 1, h]: a tile's queries, then its end vector."""
        features = image_features.squeeze(1).unflatten(0, (-1, self.features_per_tile))
        queries = self.queries.expand(len(features), -1, -1)
        for layer in self.layers:
            queries = layer(queries, features, self.query_positions, self.patch_positions)
        ends = self.end_vector.expand(len(features), -1, -1)
        return torch.cat([self.linear_out(queries), ends], dim=1).flatten(0, 1)[:, None]

    def _initialise(self, config: TransformerConfig) -> None:
        """Start as mcore's layers do: small normal weights, no biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                config.init_method(module.weight)
                nn.init.zeros_(module.bias)
        config.init_method(self.queries)
        config.init_method(self.end_vector)


class AbstractorLayer(nn.Module):
    """The queries attend to themselves and to the tile's features; the features stay."""

    def __init__(self, width: int, sizes: AbstractorConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.dropout = sizes.num_attention_heads, sizes.attention_dropout
        self.input_layernorm = nn.LayerNorm(width, LAYER_NORM_EPS, dtype=dtype)
        self.media_layernorm = nn.LayerNorm(width, LAYER_NORM_EPS, dtype=dtype)
        self.linear_q = nn.Linear(width, width, dtype=dtype)
        self.linear_k = nn.Linear(width, width, dtype=dtype)
        self.linear_v = nn.Linear(width, width, dtype=dtype)
        self.linear_proj = nn.Linear(width, width, dtype=dtype)
        self.pre_mlp_layernorm = nn.LayerNorm(width, LAYER_NORM_EPS, dtype=dtype)
        self.mlp = AbstractorMlp(width, sizes, dtype)

    def forward(
        self, queries: Tensor, features: Tensor, query_positions: Tensor, patch_positions: Tensor
    ) -> Tensor:
        """Read a tile once more.

        Args:
            queries: [m, q, h_v], what the layer below made of them.
            features: [m, p, h_v] of the tower, class token first, the same in every layer.
            query_positions: [q, h_v].
            patch_positions: [p, h_v].

        Returns:
            [m, q, h_v].
        """
        # The residual starts here: the released code adds to the *normed* queries.
        queries = self.input_layernorm(queries)
        seen = torch.cat([queries, self.media_layernorm(features)], dim=1)
        places = torch.cat([query_positions, patch_positions])
        attended = F.scaled_dot_product_attention(
            self._split(self.linear_q(queries + query_positions)),
            self._split(self.linear_k(seen + places)),
            self._split(self.linear_v(seen)),
            # Frozen or not, as released. Every rank of a tensor group draws the same: see
            # owl.mcore.dropout.
            dropout_p=self.dropout if self.training else 0.0,
        )
        queries = queries + self.linear_proj(attended.transpose(1, 2).flatten(2))
        return queries + self.mlp(self.pre_mlp_layernorm(queries))

    def _split(self, rows: Tensor) -> Tensor:
        """Cut [m, n, h_v] into heads, [m, a, n, d]."""
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class AbstractorMlp(nn.Module):
    """SwiGLU with a norm over its inner width."""

    def __init__(self, width: int, sizes: AbstractorConfig, dtype: torch.dtype) -> None:
        super().__init__()
        inner = sizes.ffn_hidden_size
        self.linear_gate = nn.Linear(width, inner, dtype=dtype)
        self.linear_up = nn.Linear(width, inner, dtype=dtype)
        self.layernorm = nn.LayerNorm(inner, sizes.ffn_layer_norm_eps, dtype=dtype)
        self.linear_down = nn.Linear(inner, width, dtype=dtype)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [..., h_v] to [..., h_v]."""
        inner = F.silu(self.linear_gate(hidden_states)) * self.linear_up(hidden_states)
        return self.linear_down(self.layernorm(inner))


def positions(places: Tensor, width: int) -> Tensor:
    """Encode n places as sines, then cosines (halves, not interleaved): [n, width] float64."""
    frequency = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angle = places.double()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def grid_positions(side: int, width: int) -> Tensor:
    """Encode the patches of a square tile, row by row: half for the column, half for the row.

    Returns:
        [side * side, width] float64, the table of masked autoencoders (MAE).
    """
    patch = torch.arange(side * side)
    column, row = positions(patch % side, width // 2), positions(patch // side, width // 2)
    return torch.cat([column, row], dim=1)
