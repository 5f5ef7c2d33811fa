# SPDX-License-Identifier: Apache-2.0
"""A CLIP vision tower in plain torch, under the names that the mPLUG-Owl family publishes.

Letters: m tiles, p patches of a tile, h_v width of the tower.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures, by channel, for values 0..1."""


@dataclass(frozen=True, kw_only=True)
class ClipSizes:
    """Sizes of the tower under their published names; the defaults are those of ViT-L/14."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    layer_norm_eps: float = 1e-6

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ClipSizes":
        """Read the tower's part of a config.json."""
        return cls(**{size.name: config[size.name] for size in fields(cls) if size.name in config})

    @property
    def side(self) -> int:
        """Patches along one side of a tile."""
        return self.image_size // self.patch_size

    @property
    def features(self) -> int:
        """Vectors that the tower returns for a tile: one of the class token, then its patches."""
        return 1 + self.side**2


class OwlClipEmbeddings(nn.Module):
    """Embeds tiles as a class token and patches, with learned positions, and normalises them."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        width, patch = sizes.hidden_size, sizes.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Parameter(torch.zeros(1, sizes.features, width))
        self.pre_layernorm = nn.LayerNorm(width, eps=sizes.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed [m, 3, s, s] tiles: [m, 1 + p, h_v]."""
        patches = self.patch_embed(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return self.pre_layernorm(tokens + self.position_embedding)


class OwlClipAttention(nn.Module):
    """Attention within a tile. The projection holds query, key and value head after head."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.num_heads = sizes.num_attention_heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.dense = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Attend within [m, 1 + p, h_v]."""
        merged = self.query_key_value(hidden_states).unflatten(-1, (self.num_heads, 3, -1))
        query, key, value = (part.transpose(1, 2) for part in merged.unbind(dim=3))
        heads = F.scaled_dot_product_attention(query, key, value)
        return self.dense(heads.transpose(1, 2).flatten(2))


class OwlClipMLP(nn.Module):
    """Two layers with CLIP's quick GELU."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.hidden_size, sizes.intermediate_size)
        self.fc2 = nn.Linear(sizes.intermediate_size, sizes.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [m, 1 + p, h_v] to the same shape."""
        inner = self.fc1(hidden_states)
        return self.fc2(inner * torch.sigmoid(1.702 * inner))


class OwlClipLayer(GradientCheckpointingLayer):
    """Attention and MLP, each after a norm."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)
        self.self_attn = OwlClipAttention(sizes)
        self.post_attention_layernorm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)
        self.mlp = OwlClipMLP(sizes)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [m, 1 + p, h_v] to the same shape."""
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states))
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class OwlClipEncoder(nn.Module):
    """The layers, all of which are run."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(OwlClipLayer(sizes) for _ in range(sizes.num_hidden_layers))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [m, 1 + p, h_v] to the same shape."""
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class OwlClipModel(nn.Module):
    """Encodes tiles; the features are all vectors of the last layer, normed."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embeddings = OwlClipEmbeddings(sizes)
        self.encoder = OwlClipEncoder(sizes)
        self.post_layernorm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode tiles.

        Args:
            pixel_values: [m, 3, s, s]; uint8 is normalised here, float is used as it is.

        Returns:
            [m, 1 + p, h_v].

        Raises:
            ValueError: another shape.
        """
        side = self.sizes.image_size
        if pixel_values.dim() != 4 or pixel_values.shape[1:] != (3, side, side):
            raise ValueError(
                f"pixel_values is {list(pixel_values.shape)}: it must be [pictures, 3, {side}, "
                f"{side}], as the processor returns it."
            )
        weight = self.embeddings.patch_embed.weight
        # An offloaded weight is on meta until it is used, on whatever device its input has.
        pixels = pixel_values if weight.is_meta else pixel_values.to(weight.device)
        hidden_states = self.embeddings(normalise_clip(pixels, weight.dtype))
        return self.post_layernorm(self.encoder(hidden_states))


def normalise_clip(pixel_values: Tensor, dtype: torch.dtype) -> Tensor:
    """Map [m, 3, s, s] bytes to `dtype` with CLIP's mean and deviation; cast anything else."""
    if pixel_values.dtype != torch.uint8:
        return pixel_values.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    mean, deviation = (
        torch.tensor(values, dtype=wide, device=pixel_values.device)[:, None, None]
        for values in (MEAN, DEVIATION)
    )
    return ((pixel_values.to(wide) / 255 - mean) / deviation).to(dtype)
