# SPDX-License-Identifier: Apache-2.0
"""What each family builds its model from: the registry of `Build`s.

How media enter the decoder is the family's setting, `ModelConfig.enters`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from owl.config.run import FamilyKind, ModelConfig
from owl.families.owl1 import model as owl1
from owl.families.owl2 import model as owl2
from owl.families.owl3 import model as owl3
from owl.model.small_model import SmallModel


class Build(Protocol):
    """The parts that a family brings to `owl.model.vision_language`.

    Letters: t tokens, m tiles, p patches of a tile, h and h_v width of decoder and tower.
    """

    def decoder_layers(self, model: ModelConfig) -> list[ModuleSpec]:
        """Describe each of the `num_layers` decoder layers: [t, 1, h] to [t, 1, h].

        A layer that looks at media takes them as `context`, [m * keys, 1, h]; every layer gets a
        PackContext as `packed_seq_params`.
        """
        ...

    def decoder_settings(self, model: ModelConfig) -> Mapping[str, Any]:
        """Return the TransformerConfig arguments of this family's decoder."""
        ...

    def tower(
        self,
        config: TransformerConfig,
        model: ModelConfig,
        *,
        pg_collection: ProcessGroupCollection,
        tile_group: dist.ProcessGroup,
    ) -> MegatronModule:
        """Build the vision tower: pixels [m, 3, s, s] to features [m, p, h_v].

        Args:
            config: of its layers.
            model: its sizes.
            pg_collection: groups that its layers are cut over.
            tile_group: ranks that share the tiles out when the tower is image-parallel.
        """
        ...

    def tower_settings(self, model: ModelConfig) -> Mapping[str, Any]:
        """Return the TransformerConfig arguments of this family's tower."""
        ...

    def projector(
        self, config: TransformerConfig, model: ModelConfig, pg_collection: ProcessGroupCollection
    ) -> MegatronModule:
        """Build what maps [m * p, 1, h_v] to [m * keys, 1, h], keys being `model.keys_per_tile`."""
        ...

    def small_models(self, *, head_dim: int) -> Mapping[str, SmallModel]:
        """Make a small model of each variant, by name, for comparing layouts."""
        ...


BUILDS: dict[FamilyKind, Build] = {
    FamilyKind.owl3: owl3,
    FamilyKind.owl2: owl2,
    FamilyKind.owl1: owl1,
}
