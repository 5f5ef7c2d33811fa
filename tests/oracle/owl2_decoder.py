# SPDX-License-Identifier: Apache-2.0
"""mPLUG-Owl2's decoder in ordinary PyTorch: what carries a loss back to the visual abstractor.

LLaMA whose norms, keys and values exist twice a layer: 0 for text, 1 for images. Written from
arXiv 2311.04257 and the released checkpoint's names, for the sizes of the golden tiny model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LAYERS, HEADS, EPS, THETA = 4, 4, 1e-6, 10000.0


def owl2_loss(
    weights: dict[str, Tensor], embeddings: Tensor, is_image: Tensor, labels: Tensor
) -> Tensor:
    """Compute the mean next-token loss.

    Args:
        weights: under the published names.
        embeddings: [b, s, h], image vectors in their places.
        is_image: [b, s] bool.
        labels: [b, s], -100 where nothing is learned.
    """
    hidden_states = embeddings
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        mine = {
            name.removeprefix(prefix): weight
            for name, weight in weights.items()
            if name.startswith(prefix)
        }
        hidden_states = _layer(mine, hidden_states, is_image[..., None])
    normed = _rms_norm(hidden_states) * weights["model.norm.weight"]
    logits = normed @ weights["lm_head.weight"].t()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def _layer(weights: dict[str, Tensor], hidden_states: Tensor, is_image: Tensor) -> Tensor:
    def twice(name: str, apply) -> Tensor:
        text, image = (apply(weights[f"{name}.multiway.{i}.weight"]) for i in range(2))
        return torch.where(is_image, image, text)

    normed = twice("input_layernorm", lambda scale: _rms_norm(hidden_states) * scale)
    query = normed @ weights["self_attn.q_proj.weight"].t()
    key = twice("self_attn.k_proj", lambda weight: normed @ weight.t())
    value = twice("self_attn.v_proj", lambda weight: normed @ weight.t())
    query, key, value = (
        part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (query, key, value)
    )
    heads = F.scaled_dot_product_attention(_rotate(query), _rotate(key), value, is_causal=True)
    attended = heads.transpose(1, 2).flatten(2) @ weights["self_attn.o_proj.weight"].t()
    hidden_states = hidden_states + attended
    normed = twice("post_attention_layernorm", lambda scale: _rms_norm(hidden_states) * scale)
    gate, up, down = (weights[f"mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
    return hidden_states + (F.silu(normed @ gate.t()) * (normed @ up.t())) @ down.t()


def _rms_norm(hidden_states: Tensor) -> Tensor:
    return F.rms_norm(hidden_states, hidden_states.shape[-1:], eps=EPS)


def _rotate(heads: Tensor) -> Tensor:
    """Turn [b, a, s, d] by its positions, halves against each other."""
    length, width = heads.shape[-2:]
    angle = torch.outer(torch.arange(length), THETA ** -(torch.arange(0, width, 2) / width))
    first, second = heads.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
