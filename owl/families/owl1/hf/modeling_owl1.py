# SPDX-License-Identifier: Apache-2.0
"""mPLUG-Owl for transformers: loads published and exported folders, trains, generates."""

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from owl.families.owl1.hf.configuration_owl1 import Owl1Config
from owl.portable.spliced.abstractor_owl import OwlAbstractor
from owl.portable.spliced.clip_tower_owl import OwlClipModel
from owl.portable.spliced.spliced_generation_owl import OwlSplicedGenerationMixin
from owl.portable.spliced.spliced_model_owl import OwlSplicedModel


class Owl1ForConditionalGeneration(OwlSplicedModel, OwlSplicedGenerationMixin):
    """Tower, abstractor, LLaMA and loss; see OwlSplicedModel."""

    config_class = Owl1Config
    # transformers 5 reads which weight to tie to; 4 only the names on the left.
    _tied_weights_keys = {  # noqa: RUF012
        "language_model.lm_head.weight": "language_model.model.embed_tokens.weight"
    }

    def __init__(self, config: Owl1Config) -> None:
        config.check()
        super().__init__(config)
        sizes, tower = config.abstractor, config.tower
        self.query_tokens = nn.Parameter(
            torch.zeros(1, sizes.num_learnable_queries, sizes.hidden_size)
        )
        self.vision_model = OwlClipModel(tower)
        self.abstractor = OwlAbstractor(
            sizes, config.text_config.hidden_size, tower.side, positions=False, queries=False
        )
        self.language_model = LlamaForCausalLM(config.text_config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            nn.init.normal_(self.query_tokens, std=self.config.initializer_range)

    @property
    def decoder(self) -> nn.Module:
        """The decoder without its output layer."""
        return self.language_model.model

    def encode_pictures(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode [m, 3, s, s]: features of the tower [m, f, h_v], and vectors [m, k, h]."""
        features = self.vision_model(pixel_values)
        return features, self.abstractor(features, self.query_tokens)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token vectors."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of token vectors."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the output layer."""
        return self.language_model.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer."""
        self.language_model.lm_head = new_embeddings
