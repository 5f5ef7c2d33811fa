# SPDX-License-Identifier: Apache-2.0
"""The SigLIP tower in plain torch, under the published names.

Written out rather than taken from transformers, whose tower builds the pooling head or not,
depending on the release: these checkpoints hold the head, unused, and keep it when saved.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from owl.families.owl3.hf.configuration_owl3 import Owl3VisionConfig


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
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Attend within [m, p, h_v]."""
        query, key, value = (
            projection(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        heads = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(heads.transpose(1, 2).flatten(2))


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

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [m, p, h_v] to the same shape."""
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states))
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class Owl3VisionEncoder(nn.Module):
    """The layers; the last one is loaded and saved, but not run."""

    def __init__(self, config: Owl3VisionConfig, *, carries_last: bool) -> None:
        super().__init__()
        self.num_used = config.num_hidden_layers - 1
        built = self.num_used + carries_last
        self.layers = nn.ModuleList(Owl3VisionLayer(config) for _ in range(built))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [m, p, h_v] to the output of the last layer but one: hidden_states[-2]."""
        for layer in self.layers[: self.num_used]:
            hidden_states = layer(hidden_states)
        return hidden_states


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


class Owl3VisionModel(nn.Module):
    """Encodes tiles as patch features. Parts that are carried, not run, require no gradient.

    Args:
        config: of the tower.
        carried: which of configuration_owl3.CARRIED_PARTS the checkpoint holds.
    """

    def __init__(self, config: Owl3VisionConfig, carried: list[str]) -> None:
        super().__init__()
        self.embeddings = Owl3VisionEmbeddings(config)
        self.encoder = Owl3VisionEncoder(config, carries_last="last_layer" in carried)
        if "post_layernorm" in carried:
            self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if "head" in carried:
            self.head = CarriedHead(config)
        self.freeze_carried()

    def freeze_carried(self) -> None:
        """Let what is carried require no gradient: distributed trainers would wait for it."""
        self.encoder.layers[self.encoder.num_used :].requires_grad_(False)
        for name in ("post_layernorm", "head"):
            if hasattr(self, name):
                getattr(self, name).requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode tiles.

        Args:
            pixel_values: [m, 3, s, s]; uint8 is normalised here, float is used as it is.

        Returns:
            [m, p, h_v].
        """
        weight = self.embeddings.patch_embedding.weight
        # An offloaded weight is on meta until it is used, on whatever device its input has.
        pixels = pixel_values if weight.is_meta else pixel_values.to(weight.device)
        return self.encoder(self.embeddings(normalise(pixels, weight.dtype)))


def normalise(pixel_values: Tensor, dtype: torch.dtype) -> Tensor:
    """Map bytes to `dtype` with mean 0.5 and deviation 0.5 per channel; cast anything else."""
    if pixel_values.dtype != torch.uint8:
        return pixel_values.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    return ((pixel_values.to(wide) / 255 - 0.5) / 0.5).to(dtype)
