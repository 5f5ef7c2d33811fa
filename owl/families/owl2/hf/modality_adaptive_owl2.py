# SPDX-License-Identifier: Apache-2.0
"""LLaMA with the modality-adaptive module: norms, keys and values exist once for text and once for
pictures.

Letters: b rows, q tokens computed now, h hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from owl.families.owl2.hf.configuration_owl2 import Owl2Config
from owl.portable.spliced.abstractor_owl import OwlAbstractor
from owl.portable.spliced.clip_tower_owl import OwlClipModel

_IS_MEDIA: ContextVar[Tensor | None] = ContextVar("is_media", default=None)
"""[b, q] bool while a layer runs: LLaMA's attention hands its projections nothing but the tokens.
A context variable has a value of its own in each thread, and a layer that is recomputed in the
backward pass sets it again."""


@contextmanager
def _telling(is_media: Tensor | None) -> Iterator[None]:
    token = _IS_MEDIA.set(is_media)
    try:
        yield
    finally:
        _IS_MEDIA.reset(token)


class Owl2Multiway(nn.Module):
    """Two copies of a module: the first for text, the second for pictures."""

    def __init__(self, text: nn.Module, media: nn.Module) -> None:
        super().__init__()
        self.multiway = nn.ModuleList([text, media])

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map each token of [b, q, h] by the copy of its modality."""
        text, media = self.multiway
        is_media = _IS_MEDIA.get()
        if is_media is None:
            return text(hidden_states)
        return torch.where(is_media[..., None], media(hidden_states), text(hidden_states))


class Owl2DecoderLayer(LlamaDecoderLayer):
    """A layer of LLaMA with two copies of norms, keys and values."""

    def __init__(self, config: Owl2Config, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        other = LlamaDecoderLayer(config, layer_idx)
        pairs = [(self, other, "input_layernorm"), (self, other, "post_attention_layernorm")]
        pairs += [(self.self_attn, other.self_attn, name) for name in ("k_proj", "v_proj")]
        for module, copy, name in pairs:
            setattr(module, name, Owl2Multiway(getattr(module, name), getattr(copy, name)))

    def forward(self, *args: Any, is_media: Tensor | None = None, **kwargs: Any) -> Any:
        """Run the layer on [b, q, h]; `is_media` [b, q] bool, None if there are no pictures."""
        if is_media is not None:
            is_media = is_media.to((args or (kwargs["hidden_states"],))[0].device)
        with _telling(is_media):
            return super().forward(*args, **kwargs)


class Owl2Model(LlamaModel):
    """Tower, abstractor and decoder, under their published names."""

    config_class = Owl2Config

    def __init__(self, config: Owl2Config) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(
            Owl2DecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.vision_model = OwlClipModel(config.tower)
        self.visual_abstractor = OwlAbstractor(
            config.abstractor, config.hidden_size, config.tower.side, positions=True, queries=True
        )
