# SPDX-License-Identifier: Apache-2.0
"""The README.md of an exported folder: what it is, where it comes from, how to load it."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

from owl.checkpoint.tensor_spec import TensorSpec
from owl.config.run import ModelConfig
from owl.convert.export_part import Part
from owl.convert.families import Published


def model_card(
    checkpoint: Path,
    model: ModelConfig,
    family: Published,
    part: Part,
    specs: Mapping[str, TensorSpec],
    *,
    base: Path | None = None,
    stands_alone: bool = False,
) -> str:
    """Return the text of the card.

    Args:
        checkpoint: what was exported.
        model: the architecture.
        family: that the model belongs to.
        part: what was exported of it.
        specs: the tensors that were written.
        base: the folder that files were copied from.
        stands_alone: whether the folder holds its code.
    """
    training = json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))
    parameters = sum(prod(spec.shape) for spec in specs.values())
    dtypes = sorted({str(spec.dtype).removeprefix("torch.") for spec in specs.values()})
    exported = family.PARTS[part]
    rows = {
        "parameters": f"{parameters:,} in {len(specs)} tensors, {', '.join(dtypes)}",
        "decoder": f"{model.num_layers} layers, {model.hidden_size} wide, vocabulary "
        f"{model.vocab_size:,}",
        **family.describe(model),
        "trained here": f"{training['step']:,} steps on {training['consumed_tokens']:,} tokens and "
        f"{training['consumed_tiles']:,} tiles",
    }
    table = "\n".join(f"| {title} | {text} |" for title, text in rows.items())
    loading = (exported.loading_code if stands_alone else exported.loading).replace(
        "FOLDER", '"PATH OF THIS FOLDER"'
    )
    origin = _front_matter(base)
    return f"""---
license: {origin.get("license", "unknown")}
{_base_model(base, origin)}library_name: transformers
pipeline_tag: {exported.pipeline_tag}
tags:
- mplug-{model.family}
---

# {model.name}{"" if part is Part.complete else f": {part}"}

| | |
|---|---|
{table}

Exported from `{checkpoint.name}` by `python -m owl.convert export`.

```python
{loading}
```
"""


def _front_matter(base: Path | None) -> dict[str, str]:
    """Read the one-line fields at the head of the base folder's card; empty without one."""
    card = base / "README.md" if base else None
    if card is None or not card.is_file():
        return {}
    _, mark, rest = card.read_text(encoding="utf-8", errors="replace").partition("---\n")
    lines = rest.partition("\n---")[0].splitlines() if mark else []
    pairs = (line.partition(":") for line in lines if not line.startswith((" ", "-")))
    return {name.strip(): value.strip() for name, _, value in pairs if value.strip()}


def _base_model(base: Path | None, origin: Mapping[str, str]) -> str:
    """Name the model that the base folder holds, by its card or by the folder."""
    if base is None:
        return ""
    return f"base_model: {origin.get('base_model') or base.resolve().name}\n"
