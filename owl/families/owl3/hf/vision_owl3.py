# SPDX-License-Identifier: Apache-2.0
"""The SigLIP tower in plain torch, under the published names.

Written out rather than taken from transformers, whose tower builds the pooling head or not,
depending on the release: these checkpoints hold the head, unused, and keep it when saved.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from owl.families.owl3.hf.configuration_owl3 import Owl3VisionConfig
from owl.portable.rotary_owl import attend_eager


class Owl3VisionEmbeddings(nn.Module):
    """Embeds tiles as patches with learned positions."""

    def __init__(self, config: Owl3VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(
            3, config.hidden_size, config.patch_size, stride=config.patch_size
        )
        self.position_embedding = nn.Embedding(config.patches_per_tile, config.hidden_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed [m, 3, s, s] tiles: [m, p, h_v]."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        # Looked up rather than added: accelerate loads an offloaded table only when it is called.
        positions = torch.arange(patches.shape[1], device=patches.device)
        return patches + self.position_embedding(positions)


class Owl3VisionAttention(nn.Module):
    """Attention of every patch of a tile to every patch of that tile."""

    def __init__(self, config: Owl3VisionConfig) -> None:
        super().__init__()
        self.config, width = config, config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        """Attend within [m, p, h_v]; append the weights [m, a, p, p] to `weights` if given."""
        query, key, value = (
            projection(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if weights is None and self.config._attn_implementation != "eager":
            heads = F.scaled_dot_product_attention(query, key, value)
            return self.out_proj(heads.transpose(1, 2).flatten(2))
        attended, of_layer = attend_eager(query, key, value, mask=None)
        if weights is not None:
            weights.append(of_layer)
        return self.out_proj(attended)


class Owl3VisionMLP(nn.Module):
    """Two layers with the tanh GELU of SigLIP."""

    def __init__(self, config: Owl3VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [m, p, h_v] to the same shape."""
        return self.fc2(F.gelu(self.fc1(hidden_states), approximate="tanh"))


class Owl3VisionLayer(GradientCheckpointingLayer):
    """Attention and MLP, each after a norm."""

    def __init__(self, config: Owl3VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = Owl3VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Owl3VisionMLP(config)

    def forward(self, hidden_states: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        """Map [m, p, h_v] to the same shape; for weights see the attention."""
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states), weights)
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class Owl3VisionEncoder(nn.Module):
    """The layers; the last one is loaded and saved, but run only for those who ask for it."""

    def __init__(self, config: Owl3VisionConfig, *, carries_last: bool) -> None:
        super().__init__()
        self.num_used = config.num_hidden_layers - 1
        built = self.num_used + carries_last
        self.layers = nn.ModuleList(Owl3VisionLayer(config) for _ in range(built))

    def forward(
        self, hidden_states: Tensor, *, runs_last: bool, weights: list[Tensor] | None
    ) -> list[Tensor]:
        """Run the layers.

        Args:
            hidden_states: [m, p, h_v].
            runs_last: run the last layer too, if the checkpoint holds it.
            weights: see the attention.

        Returns:
            [m, p, h_v] each: the input of every layer, then the output of the last one that ran.
        """
        steps = [hidden_states]
        for layer in self.layers if runs_last else self.layers[: self.num_used]:
            steps.append(layer(steps[-1], weights))
        return steps


class CarriedAttention(nn.Module):
    """The weights of the pooling head's attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)


class CarriedHead(nn.Module):
    """SigLIP's pooling head: loaded and saved, never run."""

    def __init__(self, config: Owl3VisionConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.attention = CarriedAttention(config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Owl3VisionMLP(config)


class Owl3VisionModel(PreTrainedModel):
    """Encodes tiles as patch features. Parts that are carried, not run, require no gradient.

    Args:
        config: of the tower.
        carried: which of configuration_owl3.CARRIED_PARTS the checkpoint holds.
    """

    config_class = Owl3VisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["Owl3VisionLayer"]  # noqa: RUF012
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True

    def __init__(self, config: Owl3VisionConfig, carried: list[str]) -> None:
        super().__init__(config)
        self.embeddings = Owl3VisionEmbeddings(config)
        self.encoder = Owl3VisionEncoder(config, carries_last="last_layer" in carried)
        if "post_layernorm" in carried:
            self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if "head" in carried:
            self.head = CarriedHead(config)
        self.freeze_carried()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, CarriedHead):
            nn.init.normal_(module.probe, std=std)
        if isinstance(module, CarriedAttention):
            nn.init.normal_(module.in_proj_weight, std=std)
            nn.init.zeros_(module.in_proj_bias)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Whether attention can be chosen later: it is read in each call."""
        return True

    def get_input_embeddings(self) -> nn.Module:
        """Return the layer that reads pixels."""
        return self.embeddings.patch_embedding

    def freeze_carried(self) -> None:
        """Let what is carried require no gradient: distributed trainers would wait for it."""
        self.encoder.layers[self.encoder.num_used :].requires_grad_(False)
        for name in ("post_layernorm", "head"):
            if hasattr(self, name):
                getattr(self, name).requires_grad_(False)

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **_: Any,
    ) -> BaseModelOutput:
        """Encode tiles.

        Args:
            pixel_values: [m, 3, s, s]; uint8 is normalised here, float is used as it is.
            output_hidden_states: return the input of each layer and the last layer's output too.
            output_attentions: return the weights [m, a, p, p] of each layer too.

        Returns:
            last_hidden_state [m, p, h_v] is what the projector reads: SigLIP's hidden_states[-2],
            the output of the last layer but one. The last layer, if the checkpoint holds it, runs
            only for the other two.
        """
        weight = self.embeddings.patch_embedding.weight
        # An offloaded weight is on meta until it is used, on whatever device its input has.
        pixels = pixel_values if weight.is_meta else pixel_values.to(weight.device)
        weights: list[Tensor] | None = [] if output_attentions else None
        steps = self.encoder(
            self.embeddings(normalise(pixels, weight.dtype)),
            runs_last=output_hidden_states or output_attentions,
            weights=weights,
        )
        return BaseModelOutput(
            last_hidden_state=steps[self.encoder.num_used],
            hidden_states=tuple(steps) if output_hidden_states else None,
            attentions=tuple(weights) if weights is not None else None,
        )


def normalise(pixel_values: Tensor, dtype: torch.dtype) -> Tensor:
    """Map bytes to `dtype` with mean 0.5 and deviation 0.5 per channel; cast anything else."""
    if pixel_values.dtype != torch.uint8:
        return pixel_values.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    return ((pixel_values.to(wide) / 255 - 0.5) / 0.5).to(dtype)
