# SPDX-License-Identifier: Apache-2.0
"""Small models whose pictures are part of the text, one of each family that has such models."""

from pathlib import Path

import torch
from torch import nn

from owl.hf import (
    Owl1Config,
    Owl1ForConditionalGeneration,
    Owl1Processor,
    Owl2Config,
    Owl2ForConditionalGeneration,
    Owl2Processor,
)
from tests.llama_tokenizer import write_llama_tokenizer

FAMILIES = ("owl1", "owl2")
PROCESSORS = {"owl1": Owl1Processor, "owl2": Owl2Processor}
SIDE, KEYS = 28, 5
"""Pixels of a square, and vectors of a picture: four queries and the end vector."""

_TEXT = {
    "vocab_size": 354,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 14,
}
_ABSTRACTOR = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}


def tiny_config(family: str, **changes) -> Owl1Config | Owl2Config:
    if family == "owl1":
        return Owl1Config(
            text_config=_TEXT | changes,
            vision_config=_TOWER,
            visual_abstractor_config=_ABSTRACTOR,
            num_query_tokens=KEYS - 1,
        )
    abstractor = _ABSTRACTOR | {"num_learnable_queries": KEYS - 1}
    parts = {"visual_model": _TOWER, "visual_abstractor": abstractor}
    return Owl2Config(visual_config=parts, **(_TEXT | changes))


def tiny_model(family: str, **changes) -> nn.Module:
    """Build a model that answers different prompts differently."""
    torch.manual_seed(0)
    classes = {"owl1": Owl1ForConditionalGeneration, "owl2": Owl2ForConditionalGeneration}
    model = classes[family](tiny_config(family, **changes)).eval()
    for name, parameter in model.named_parameters():
        is_scale = "norm" in name and name.endswith("weight")
        nn.init.normal_(parameter, mean=float(is_scale), std=0.3)
    return model


def save_folder(family: str, folder: Path) -> Path:
    """Save a model with a tokenizer."""
    tiny_model(family).save_pretrained(folder)
    return write_llama_tokenizer(folder)


def make_prompt(texts: list[int], *, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Draw a row of stretches of text with a picture between each two, and its media_offset."""
    generator = torch.Generator().manual_seed(seed)
    ids, offsets = [], []
    for index, length in enumerate(texts):
        if index:
            offsets.append(len(ids))
            ids += [0] * KEYS
        ids += torch.randint(3, 300, (length,), generator=generator).tolist()
    return torch.tensor(ids), offsets


def make_pixels(count: int, *, seed: int = 0) -> torch.Tensor:
    """Draw normalised pictures."""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
