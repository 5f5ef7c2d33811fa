# SPDX-License-Identifier: Apache-2.0
"""The embedded demo of mPLUG-Owl: a tiny LLaMA and a tiny CLIP.

This module implements owl.demo.families.DemoFamily.
"""

from owl.config.run import ModelConfig
from owl.convert.start import InitOptions
from owl.demo.clip_llama import SHARDS as SHARDS
from owl.demo.clip_llama import SPECIAL as SPECIAL
from owl.demo.clip_llama import TOKENS as TOKENS
from owl.demo.clip_llama import features as features
from owl.demo.clip_llama import language_model as language_model
from owl.demo.clip_llama import vision_model as vision_model
from owl.families.owl1.markup_owl1 import SYSTEM
from owl.families.owl1.variants_owl1 import VARIANTS

MARKUP = f"Human AI image {SYSTEM}"
TEMPLATES = ("owl1",)


def init_options(model: ModelConfig) -> InitOptions:
    """The released model in the demo's size."""
    (variant,) = VARIANTS
    return InitOptions(
        variant=variant, vocab_size=model.vocab_size, abstractor=model.abstractor, name=model.name
    )
