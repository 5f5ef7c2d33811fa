# SPDX-License-Identifier: Apache-2.0
"""From tower width to decoder width: the published linear layer, MLP, or visual abstractor.

Each maps [m * p, 1, h_v], tile after tile, to [m * keys, 1, h]: `ModelConfig.keys_per_tile` is
the number of keys that a tile costs in the decoder.
"""

import torch.nn.functional as F
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from owl.config.run import ModelConfig, ProjectorKind
from owl.model.abstractor import VisualAbstractor


class LinearProjector(MegatronModule):
    """One linear layer (240728, 241014), replicated on every rank: 4 M weights need no gather."""

    def __init__(
        self, config: TransformerConfig, model: ModelConfig, pg_collection: ProcessGroupCollection
    ) -> None:
        super().__init__(config=config)
        self.linear = nn.Linear(
            model.vision_tower.hidden_size, model.hidden_size, dtype=config.params_dtype
        )
        config.init_method(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, image_features: Tensor) -> Tensor:
        """Map [m * p, 1, h_v] to [m * p, 1, h]."""
        return self.linear(image_features)


class MlpProjector(MegatronModule):
    """Linear, exact GELU, linear (241101), sharded over the tensor group."""

    def __init__(
        self, config: TransformerConfig, model: ModelConfig, pg_collection: ProcessGroupCollection
    ) -> None:
        super().__init__(config=config)
        self.linear_fc1 = ColumnParallelLinear(
            model.vision_tower.hidden_size,
            model.hidden_size,
            config=config,
            init_method=config.init_method,
            gather_output=False,
            tp_group=pg_collection.tp,
        )
        self.linear_fc2 = RowParallelLinear(
            model.hidden_size,
            model.hidden_size,
            config=config,
            init_method=config.init_method,
            bias=True,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=pg_collection.tp,
        )

    def forward(self, image_features: Tensor) -> Tensor:
        """Map [m * p, 1, h_v] to [m * p, 1, h]."""
        hidden, _ = self.linear_fc1(image_features)
        projected, _ = self.linear_fc2(F.gelu(hidden))
        return projected


PROJECTORS: dict[ProjectorKind, type[MegatronModule]] = {
    ProjectorKind.linear: LinearProjector,
    ProjectorKind.mlp: MlpProjector,
    ProjectorKind.abstractor: VisualAbstractor,
}


def build_projector(
    config: TransformerConfig, model: ModelConfig, pg_collection: ProcessGroupCollection
) -> MegatronModule:
    """Build the projector that `model.projector` names."""
    return PROJECTORS[model.projector](config, model, pg_collection)
