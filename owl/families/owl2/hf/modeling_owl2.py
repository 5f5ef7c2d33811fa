# SPDX-License-Identifier: Apache-2.0
"""mPLUG-Owl2 for transformers: loads published and exported folders, trains, generates."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from owl.families.owl2.hf.configuration_owl2 import Owl2Config
from owl.families.owl2.hf.modality_adaptive_owl2 import Owl2Model
from owl.portable.spliced.spliced_generation_owl import OwlSplicedGenerationMixin
from owl.portable.spliced.spliced_model_owl import OwlSplicedModel


class Owl2ForConditionalGeneration(OwlSplicedModel, OwlSplicedGenerationMixin):
    """Tower, abstractor, modality-adaptive decoder and loss; see OwlSplicedModel."""

    config_class = Owl2Config
    # transformers 5 reads which weight to tie to; 4 only the names on the left.
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _no_split_modules = [*OwlSplicedModel._no_split_modules, "Owl2DecoderLayer"]  # noqa: RUF012
    ids_per_picture: ClassVar[int | None] = 1  # -200 in the published code

    def __init__(self, config: Owl2Config) -> None:
        config.check()
        super().__init__(config)
        self.model = Owl2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def decoder(self) -> nn.Module:
        """The decoder without its output layer."""
        return self.model

    def encode_pictures(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode [m, 3, s, s]: features of the tower [m, f, h_v], and vectors [m, k, h]."""
        features = self.model.vision_model(pixel_values)
        return features, self.model.visual_abstractor(features)

    def media_options(self, is_media: Tensor | None) -> dict[str, Any]:
        """Tell layers which tokens are a picture's.

        While gradients are computed, batches without pictures go through both copies too: the
        second's are zero then, not missing, for which distributed trainers would wait.
        """
        if is_media is None and self.training and torch.is_grad_enabled():
            is_media = torch.zeros(1, 1, dtype=torch.bool)
        return {} if is_media is None else {"is_media": is_media}

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token vectors."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of token vectors."""
        self.model.embed_tokens = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Module:
        """Return the output layer."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer."""
        self.lm_head = new_embeddings  # type: ignore[assignment]
