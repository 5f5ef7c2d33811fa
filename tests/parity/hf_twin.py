# SPDX-License-Identifier: Apache-2.0
"""A training model's weights in an owl.hf model."""

import torch
from torch import nn

from owl.config.run import ModelConfig
from owl.families.owl3.published import entries
from owl.hf import Owl3Config, Owl3ForConditionalGeneration


def hf_config(model: ModelConfig) -> Owl3Config:
    """Say in transformers' terms what a training model is; the tower's unused parts are not."""
    hyper, tower = model.hyper_attention, model.vision_tower
    return Owl3Config(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_kv_heads,
        rope_theta=model.rope_theta,
        rms_norm_eps=model.rms_norm_eps,
        tie_word_embeddings=model.tie_word_embeddings,
        hyper_layers=[index + 1 for index in hyper.layer_indices],
        fusion=str(hyper.fusion),
        projector=str(model.projector),
        media_position_shift=hyper.media_position_shift,
        template=str(model.template),
        carried_vision_parts=[],
        vision_config={
            "hidden_size": tower.hidden_size,
            "intermediate_size": tower.ffn_hidden_size,
            "num_hidden_layers": tower.num_layers,
            "num_attention_heads": tower.num_attention_heads,
            "image_size": tower.image_size,
            "patch_size": tower.patch_size,
            "layer_norm_eps": tower.layer_norm_eps,
        },
    )


def twin_of(chunk: nn.Module, model: ModelConfig) -> Owl3ForConditionalGeneration:
    """Build the owl.hf model with the same weights."""
    twin = Owl3ForConditionalGeneration(hf_config(model))
    mine = dict(chunk.named_parameters())
    weights: dict[str, torch.Tensor] = {}
    for entry in entries(model):
        whole = entry.to_published(mine[entry.ours].detach())
        weights |= zip(entry.published, whole, strict=True)
    for name, parameter in twin.named_parameters():
        parameter.data = weights.pop(name)[: len(parameter)].clone()
    assert not weights, f"owl.hf has no {sorted(weights)}"
    twin.tie_weights()
    return twin.eval()
