# SPDX-License-Identifier: Apache-2.0
"""Published folders of random weights: the true names and structure of each variant, narrow."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from owl.config.run import ModelConfig
from owl.convert.families import PUBLISHED, weight_table
from owl.families.owl3.published_config import build_config

VARIANTS = ("240728", "241014", "241101")
VOCABULARY = 259  # odd: no tensor-parallel degree but 1 shares it without padding

# Decoder layers, hyper_layers counted from 1, tied, tile size: as published.
_STRUCTURE = {
    "240728": (28, [1, 9, 17, 25], False, 384),
    "241014": (24, [6, 13, 20, 22], True, 384),
    "241101": (28, [7, 15, 23, 26], False, 378),
}


def published_config(variant: str) -> dict:
    """Write a config.json as the variant's own, narrow: 8 heads, 4 key-value heads of width 4."""
    layers, hyper_layers, tied, image_size = _STRUCTURE[variant]
    return {
        "architectures": ["mPLUGOwl3Model"],
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_mplugowl3.mPLUGOwl3Config"},
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": 32,
        "hyper_layers": hyper_layers,
        "initializer_range": 0.02,
        "intermediate_size": 48,
        "max_position_embeddings": 32768,
        "max_window_layers": layers,
        "model_type": "mplugowl3",
        "num_attention_heads": 8,
        "num_hidden_layers": layers,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "hidden_size": 16,
            "image_size": image_size,
            "intermediate_size": 24,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 4,
            "num_hidden_layers": 27,
            "patch_size": 14,
        },
        "vocab_size": VOCABULARY,
    }


def small_config(variant: str) -> dict:
    """Shorten it to four decoder and three tower layers, where structure is not the question."""
    config = published_config(variant)
    vision = config["vision_config"] | {"num_hidden_layers": 3, "image_size": 28}
    return config | {"num_hidden_layers": 4, "hyper_layers": [2, 4], "vision_config": vision}


def published_model(variant: str, config: dict | None = None) -> ModelConfig:
    """Build our configuration of the same model."""
    config = config or published_config(variant)
    layers = [index - 1 for index in config["hyper_layers"]]
    return build_config(config, config["vision_config"], variant, layers, variant)


def random_weights(
    variant: str, config: dict | None = None, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Tensor]:
    """Make every published tensor of a variant, each value different from its neighbours."""
    generator = torch.Generator().manual_seed(int(variant))
    model = published_model(variant, config)
    return {
        name: (torch.randn(shape, generator=generator) * 0.2).to(dtype)
        for name, shape in weight_table(PUBLISHED[model.family], model).shapes.items()
    }


def write_published(
    folder: Path,
    variant: str,
    *,
    config: dict | None = None,
    weights: dict[str, Tensor] | None = None,
    files: int = 1,
) -> Path:
    """Write a folder as it is published: config.json and one weights file, or several."""
    config = config or published_config(variant)
    weights = random_weights(variant, config) if weights is None else weights
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if files == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    places = {}
    for index in range(files):
        name = f"model-{index + 1:05d}-of-{files:05d}.safetensors"
        share = dict(list(weights.items())[index::files])
        save_file(share, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(share, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder, of one file or several."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def assert_same_bytes(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Same names, and for each the same dtype, shape and bits."""
    assert sorted(actual) == sorted(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert actual[name].shape == tensor.shape, name
        assert torch.equal(actual[name].view(torch.uint8), tensor.view(torch.uint8)), name
