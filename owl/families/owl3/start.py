# SPDX-License-Identifier: Apache-2.0
"""Start an mPLUG-Owl3 from a Qwen2 folder and a SigLIP folder.

Each hyper layer's media key-value projection begins as a copy of that layer's own key and value
projections (paper, section 2.2). Projector and gates keep the model's initial values.
"""

from dataclasses import replace

from torch import Tensor

from owl.config.run import ModelConfig
from owl.convert.files.reader import HfFolder
from owl.convert.start import InitOptions, keep_rows
from owl.convert.tables import layouts
from owl.errors import CheckpointError
from owl.families.owl3.limits_owl3 import SIZES
from owl.families.owl3.published_config import build_config, check_computed

# (variant, decoder layers) -> hyper layers as published, counted from 0. Those of the 2B (28 layers
# of 241014) are unknown; these are our choice.
_PUBLISHED_LAYERS = {
    ("240728", 28): [0, 8, 16, 24],
    ("241101", 28): [6, 14, 22, 25],
    ("241014", 24): [5, 12, 19, 21],
    ("241014", 28): [6, 14, 22, 25],
}
_PUBLISHED_VOCABULARY = {"240728": 151851, "241014": 151851, "241101": 151651}


def start(language: HfFolder, vision: HfFolder, options: InitOptions) -> "QwenAndSiglip":
    """Read a Qwen2 and a SigLIP under the names of a published Owl3."""
    return QwenAndSiglip(language, vision, options)


class QwenAndSiglip:
    """Two folders that read like one published Owl3.

    Args:
        language: Qwen2 or Qwen2.5, as transformers saves it.
        vision: SigLIP, the vision model alone or both towers.
        options: variant and other choices.

    Raises:
        CheckpointError: the folders do not make an Owl3.
    """

    def __init__(self, language: HfFolder, vision: HfFolder, options: InitOptions) -> None:
        self.language, self.vision = language, vision
        self.model = _architecture(language, vision, options)
        # Versions of transformers differ in whether SiglipVisionModel has this prefix.
        prefixed = any(name.startswith("vision_model.") for name in vision.specs)
        self._removed_prefix = "" if prefixed else "vision_model."

    def has(self, published: str) -> bool:
        """Whether the SigLIP folder has a tensor."""
        return published.removeprefix(self._removed_prefix) in self.vision.specs

    def read(self, published: str) -> Tensor:
        """Read a tensor by its published Owl3 name."""
        if published.startswith("vision_model."):
            return self.vision.read(published.removeprefix(self._removed_prefix))
        name = published.removeprefix("language_model.")
        if name.endswith(("v_kv_proj.weight", "v_kv_proj.bias")):
            return self._media_kv(name)
        tensor = self.language.read(name)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            return keep_rows(tensor, self.model.vocab_size, self.language.folder)
        return tensor

    def is_random(self, ours: str) -> bool:
        """Whether a weight belongs to the projector or to a gate."""
        return ours.startswith("projector.") or ".fusion." in ours

    def _media_kv(self, name: str) -> Tensor:
        key, value = (
            self.language.read(name.replace("v_kv_proj", p)) for p in ("k_proj", "v_proj")
        )
        return layouts.merge_media_kv(key, value, self.model.num_kv_heads)


def _architecture(language: HfFolder, vision: HfFolder, options: InitOptions) -> ModelConfig:
    """Determine the model's sizes from both folders and the variant."""
    vision_config = dict(vision.config.get("vision_config", vision.config))
    missing = [size for size in SIZES if size not in language.config]
    if missing:
        raise CheckpointError(
            f"--language-model {language.folder}: its config.json lacks {', '.join(missing)}. Name "
            "the folder of a Qwen2 or Qwen2.5."
        )
    check_computed(language.config, vision_config)
    num_layers = language.config["num_hidden_layers"]
    layers = options.layer_indices or _PUBLISHED_LAYERS.get((options.variant, num_layers))
    if options.variant == "241101" and vision_config.get("image_size") == 384:
        vision_config["image_size"] = 378  # the same 27 x 27 patches, without the 6 unused pixels
    model = build_config(
        language.config,
        vision_config,
        options.variant,
        layers or _spread_layers(num_layers),
        options.name,
    )
    vocabulary = options.vocab_size or min(model.vocab_size, _PUBLISHED_VOCABULARY[options.variant])
    model = replace(model, vocab_size=vocabulary)
    problems = list(model.problems())
    if problems:
        raise CheckpointError("; ".join(problems))
    return model


def _spread_layers(num_layers: int) -> list[int]:
    """Place up to four hyper layers evenly, the last one at the end: no variant defines them."""
    count = min(4, max(1, num_layers // 2))
    return [(i + 1) * num_layers // count - 1 for i in range(count)]
