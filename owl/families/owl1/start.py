# SPDX-License-Identifier: Apache-2.0
"""Start an mPLUG-Owl from a LLaMA folder and a CLIP folder; the abstractor begins at random."""

from owl.convert.clip_llama import ClipAndLlama, clip_fields, llama_fields
from owl.convert.files.reader import HfFolder
from owl.convert.start import InitOptions
from owl.families.owl1.published_config import read_config

_ABSTRACTOR = {
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "intermediate_size": 2816,  # of the released files; the published class has 4096
    "attention_probs_dropout_prob": 0.1,
}


def start(language: HfFolder, vision: HfFolder, options: InitOptions) -> ClipAndLlama:
    """Read a LLaMA and a CLIP under the names of a published Owl1."""
    config = {
        "text_config": llama_fields(language),
        "vision_config": clip_fields(vision, options.image_size),
        "visual_abstractor_config": _ABSTRACTOR,
    }
    model = read_config(config, (), options.name)
    return ClipAndLlama(
        language, vision, model, options, tower="vision_model.", llama_name=_llama_name
    )


def _llama_name(published: str) -> str:
    return published.removeprefix("language_model.")
