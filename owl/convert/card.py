# SPDX-License-Identifier: Apache-2.0
"""The README.md of an exported folder: what it is, where it comes from, how to load it."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

from owl.checkpoint.tensor_spec import TensorSpec
from owl.config.run import ModelConfig

_LOADING = {
    "owl3": (
        "import owl.hf  # registers mplugowl3 with transformers' Auto classes\n"
        "from transformers import AutoModelForCausalLM\n\n"
        'model = AutoModelForCausalLM.from_pretrained("PATH OF THIS FOLDER")'
    ),
    "language-model": (
        "from transformers import Qwen2ForCausalLM\n\n"
        'model = Qwen2ForCausalLM.from_pretrained("PATH OF THIS FOLDER")'
    ),
    "vision-model": (
        "from transformers import SiglipVisionModel\n\n"
        'model = SiglipVisionModel.from_pretrained("PATH OF THIS FOLDER")'
    ),
}
_TAGS = {
    "owl3": "image-text-to-text",
    "language-model": "text-generation",
    "vision-model": "image-feature-extraction",
}


def model_card(
    model: ModelConfig, checkpoint: Path, specs: Mapping[str, TensorSpec], part: str
) -> str:
    """Write the card.

    Args:
        model: the architecture.
        checkpoint: what was exported.
        specs: the tensors that were written.
        part: "owl3", "language-model" or "vision-model".
    """
    training = json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))
    parameters = sum(prod(spec.shape) for spec in specs.values())
    dtypes = sorted({str(spec.dtype).removeprefix("torch.") for spec in specs.values()})
    layers = [index + 1 for index in model.hyper_attention.layer_indices]
    attention = model.hyper_attention
    return f"""---
library_name: transformers
pipeline_tag: {_TAGS[part]}
tags:
- mplug-owl3
---

# {model.name}{"" if part == "owl3" else f": {part}"}

| | |
|---|---|
| parameters | {parameters:,} in {len(specs)} tensors, {", ".join(dtypes)} |
| decoder | {model.num_layers} layers, {model.hidden_size} wide, vocabulary {model.vocab_size:,} |
| layers that see images | {", ".join(map(str, layers))} (counted from 1), {attention.fusion} |
| tiles | {model.vision_tower.image_size} px, {model.vision_tower.patches_per_tile} patches |
| trained here | {training["step"]:,} steps on {training["consumed_tokens"]:,} tokens and \
{training["consumed_tiles"]:,} tiles |

Exported from `{checkpoint.name}` by `python -m owl.convert export`.

```python
{_LOADING[part]}
```
"""
