# SPDX-License-Identifier: Apache-2.0
"""mPLUG-Owl3 for transformers. Importing this makes the Auto classes load it without remote code.

The modules named *_owl3.py, here, in owl/data and in owl/config, import nothing of owl but each
other, so that copy_code can put them into an exported folder.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from owl.families.owl3.hf.configuration_owl3 import Owl3Config
from owl.families.owl3.hf.modeling_owl3 import Owl3ForConditionalGeneration
from owl.families.owl3.hf.processing_owl3 import Owl3Processor

__all__ = ["Owl3Config", "Owl3ForConditionalGeneration", "Owl3Processor"]

AutoConfig.register(Owl3Config.model_type, Owl3Config, exist_ok=True)
for _auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
    _auto.register(Owl3Config, Owl3ForConditionalGeneration, exist_ok=True)
AutoProcessor.register(Owl3Config, Owl3Processor, exist_ok=True)
