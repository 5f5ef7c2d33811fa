# SPDX-License-Identifier: Apache-2.0
"""The model families for transformers. Importing this registers them with the Auto classes.

A family adds its imports and one call of register.
"""

from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from owl.families.owl1.hf.configuration_owl1 import Owl1Config
from owl.families.owl1.hf.modeling_owl1 import Owl1ForConditionalGeneration
from owl.families.owl1.hf.processing_owl1 import Owl1Processor
from owl.families.owl2.hf.configuration_owl2 import Owl2Config
from owl.families.owl2.hf.modeling_owl2 import Owl2ForConditionalGeneration
from owl.families.owl2.hf.processing_owl2 import Owl2Processor
from owl.families.owl3.hf.configuration_owl3 import Owl3Config
from owl.families.owl3.hf.modeling_owl3 import Owl3ForConditionalGeneration
from owl.families.owl3.hf.processing_owl3 import Owl3Processor

__all__ = [
    "AUTO_CLASSES",
    "Owl1Config",
    "Owl1ForConditionalGeneration",
    "Owl1Processor",
    "Owl2Config",
    "Owl2ForConditionalGeneration",
    "Owl2Processor",
    "Owl3Config",
    "Owl3ForConditionalGeneration",
    "Owl3Processor",
]

AUTO_CLASSES: dict[str, dict[str, type]] = {}
"""By model_type: the class that each of transformers' Auto classes loads."""
OLD_AUTO = "AutoModelForVision2Seq"
"""The name of AutoModelForImageTextToText in transformers 4, which exported folders list too."""


def register(config: Any, model: type, processor: type) -> None:
    """Let transformers' Auto classes load a family without remote code."""
    model_autos = (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText)
    AutoConfig.register(config.model_type, config, exist_ok=True)
    for auto in model_autos:
        auto.register(config, model, exist_ok=True)
    if hasattr(transformers, OLD_AUTO):
        getattr(transformers, OLD_AUTO).register(config, model, exist_ok=True)
    AutoProcessor.register(config, processor, exist_ok=True)
    AUTO_CLASSES[config.model_type] = {
        "AutoConfig": config,
        **{auto.__name__: model for auto in model_autos},
        OLD_AUTO: model,
        "AutoProcessor": processor,
    }


register(Owl3Config, Owl3ForConditionalGeneration, Owl3Processor)
register(Owl2Config, Owl2ForConditionalGeneration, Owl2Processor)
register(Owl1Config, Owl1ForConditionalGeneration, Owl1Processor)
