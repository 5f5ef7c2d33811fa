# SPDX-License-Identifier: Apache-2.0
"""Start a model of a CLIP tower, an abstractor and a LLaMA from folders of a CLIP and a LLaMA."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from owl.config.run import ModelConfig
from owl.convert.files.reader import HfFolder
from owl.convert.start import InitOptions, keep_rows
from owl.convert.tables import layouts
from owl.errors import CheckpointError
from owl.model.tower.position_table import resize_positions

# Published name of the two families, transformers' name.
_CLIP_NAMES = (
    ("embeddings.cls_token", "embeddings.class_embedding"),
    ("embeddings.patch_embed.", "embeddings.patch_embedding."),
    ("embeddings.position_embedding", "embeddings.position_embedding.weight"),
    ("embeddings.pre_layernorm.", "pre_layrnorm."),  # as it is spelt there
    (".input_layernorm.", ".layer_norm1."),
    (".post_attention_layernorm.", ".layer_norm2."),
    (".self_attn.dense.", ".self_attn.out_proj."),
)
_CLIP_FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("image_size", "patch_size", "num_channels", "hidden_act", "attention_dropout"),
)
_LLAMA_FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "vocab_size", "rope_theta", "rope_scaling", "rope_parameters"),
    *("hidden_act", "attention_bias", "mlp_bias", "attention_dropout", "tie_word_embeddings"),
)


def llama_fields(language: HfFolder) -> dict[str, Any]:
    """Return what the published config.json takes over from a LLaMA's.

    Not its epsilon and its positions: the published models have their own.

    Raises:
        CheckpointError: it is no LLaMA, or its rotary positions are scaled.
    """
    config = language.config
    rotary = (config.get("rope_parameters") or {}).get("rope_type", "default")
    if config.get("model_type") != "llama" or rotary != "default":
        raise CheckpointError(
            f"--language-model {language.folder}: model_type={config.get('model_type')!r} with "
            f"{rotary} rotary positions. Name the folder of a LLaMA or LLaMA-2, without scaling."
        )
    return {name: config[name] for name in _LLAMA_FIELDS if name in config}


def clip_fields(vision: HfFolder, image_size: int | None) -> dict[str, Any]:
    """Return what the published config.json takes over from a CLIP's, for pictures of a size.

    Raises:
        CheckpointError: it is no CLIP.
    """
    config = vision.config.get("vision_config", vision.config)
    missing = [name for name in _CLIP_FIELDS[:4] if name not in config]
    if missing or not str(config.get("model_type", "clip")).startswith("clip"):
        raise CheckpointError(
            f"--vision-model {vision.folder}: model_type={config.get('model_type')!r}, without "
            f"{', '.join(missing) or 'nothing'}. Name the folder of a CLIP, such as ViT-L/14."
        )
    fields = {"image_size": 224, "patch_size": 14, "hidden_act": "quick_gelu"} | {
        name: config[name] for name in _CLIP_FIELDS if name in config
    }
    return fields | ({"image_size": image_size} if image_size else {})


class ClipAndLlama:
    """Two folders that read like one published model; implements owl.convert.start.Start.

    Args:
        language: a LLaMA, as transformers saves it.
        vision: a CLIP, the vision model alone or both towers.
        model: that the two make.
        options: choices of the user, of which the model does not know yet.
        tower: prefix of the tower's published names.
        llama_name: published name of a decoder's tensor to LLaMA's own.
    """

    def __init__(
        self,
        language: HfFolder,
        vision: HfFolder,
        model: ModelConfig,
        options: InitOptions,
        *,
        tower: str,
        llama_name: Callable[[str], str],
    ) -> None:
        self.language, self.vision = language, vision
        self.model = _with_options(model, options)
        self._tower, self._llama_name = tower, llama_name
        # Versions of transformers differ in whether CLIPVisionModel has this prefix.
        prefixed = any(name.startswith("vision_model.") for name in vision.specs)
        self._clip_prefix = "vision_model." if prefixed else ""

    def has(self, published: str) -> bool:
        """Whether the LLaMA folder has a tensor: old ones hold rotary frequencies."""
        return self._llama_name(published) in self.language.specs

    def read(self, published: str) -> Tensor:
        """Read a tensor by its published name; both copies of a modality are LLaMA's own."""
        if published.startswith(self._tower):
            return self._tower_tensor(published.removeprefix(self._tower))
        name = self._llama_name(published)
        tensor = self.language.read(name)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            return keep_rows(tensor, self.model.vocab_size, self.language.folder)
        return tensor

    def is_random(self, ours: str) -> bool:
        """Whether a weight belongs to the abstractor."""
        return ours.startswith("projector.")

    def _tower_tensor(self, published: str) -> Tensor:
        sizes = self.model.vision_tower
        if ".query_key_value." in published:
            query, key, value = (
                self._clip(published.replace("query_key_value", name))
                for name in ("q_proj", "k_proj", "v_proj")
            )
            return layouts.merge_qkv(query, key, value, sizes.num_attention_heads)
        tensor = self._clip(published)
        if published == "embeddings.cls_token":
            return tensor.view(1, 1, -1)
        if published == "embeddings.position_embedding":
            side = sizes.image_size // sizes.patch_size
            return resize_positions(tensor[None], class_tokens=sizes.class_tokens, side=side)
        return tensor

    def _clip(self, published: str) -> Tensor:
        for theirs, clip in _CLIP_NAMES:
            published = published.replace(theirs, clip)
        return self.vision.read(self._clip_prefix + published)


def _with_options(model: ModelConfig, options: InitOptions) -> ModelConfig:
    changes: dict[str, Any] = {}
    if options.vocab_size:
        changes["vocab_size"] = options.vocab_size
    if options.abstractor:
        changes["abstractor"] = options.abstractor
    model = replace(model, **changes)
    if problems := list(model.problems()):
        raise CheckpointError("; ".join(problems))
    return model
