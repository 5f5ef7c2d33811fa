# SPDX-License-Identifier: Apache-2.0
"""Start an mPLUG-Owl2 from a LLaMA-2 folder and a CLIP folder.

The media copies of norms, keys and values begin as the text's (paper, section 4.1), the abstractor
at random.
"""

import re

from owl.convert.clip_llama import ClipAndLlama, clip_fields, llama_fields
from owl.convert.files.reader import HfFolder
from owl.convert.start import InitOptions
from owl.families.owl2.published_config import read_config


def start(language: HfFolder, vision: HfFolder, options: InitOptions) -> ClipAndLlama:
    """Read a LLaMA-2 and a CLIP under the names of a published Owl2."""
    config = llama_fields(language)
    config["visual_config"] = {"visual_model": clip_fields(vision, options.image_size)}
    config["image_aspect_ratio"] = "resize"
    model = read_config(config, (), options.name)
    return ClipAndLlama(
        language, vision, model, options, tower="model.vision_model.", llama_name=_llama_name
    )


def _llama_name(published: str) -> str:
    return re.sub(r"\.multiway\.\d", "", published)
