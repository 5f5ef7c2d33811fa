# SPDX-License-Identifier: Apache-2.0
"""Learning rates by part of the model and by layer of the vision tower, as groups of parameters.

Megatron's optimizer makes one group of parameters for each set of overrides. Its checkpoints tell
groups apart by `lr_mult`, which nothing else reads; so it holds the factor that is applied through
`max_lr` and `min_lr`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from megatron.core.optimizer import ParamKey
from megatron.core.optimizer.optimizer_config import ParamWithNamePredicate
from torch import nn

from owl.config.run import LrDecay, ModelConfig, OptimConfig
from owl.mcore.parameters import unwrapped
from owl.model.freeze import PARTS, part_of

_WRAPPERS = re.compile(r"^(module\.)+")
_LAYER = re.compile(r"^vision_tower\.encoder\.layers\.(\d+)\.")


def part_rates(optim: OptimConfig) -> dict[str, float]:
    """Return the factor, relative to optim.learning_rate, of each part with a rate of its own."""
    factors = {part: optim.peak(part) / optim.learning_rate for part in PARTS}
    return {part: factor for part, factor in factors.items() if factor != 1.0}


def rate_factor(name: str, optim: OptimConfig, tower_layers: int) -> float:
    """Return a parameter's learning rate relative to optim.learning_rate.

    Layer l of n counts from 0 and has the tower's rate times tower_layer_decay ** (n - 1 - l).
    mPLUG-Owl2 (arXiv 2311.04257, section 4.1) publishes the decay and no more; that embeddings and
    the norm before the layers count as layer -1, and a norm after them as the last, is our choice.

    Args:
        name: in an unsplit model.
        optim: rates and decay.
        tower_layers: layers that the vision tower runs.
    """
    part = part_of(name)
    factor = optim.peak(part) / optim.learning_rate
    if part != "vision_tower" or optim.tower_layer_decay == 1.0:
        return factor
    if name.startswith("vision_tower.encoder.final_layernorm."):
        return factor
    found = _LAYER.match(name)
    layer = int(found[1]) if found else -1
    return factor * optim.tower_layer_decay ** (tower_layers - 1 - layer)


def rate_overrides(optim: OptimConfig, chunks: Sequence[nn.Module]) -> Mapping[ParamKey, Any]:
    """Describe the rates of this rank's parameters as Megatron's overrides; empty without any."""
    names_of: dict[float, set[str]] = {}
    for chunk in chunks:
        model: ModelConfig = unwrapped(chunk).model_config  # type: ignore[assignment]
        for wrapped, parameter in chunk.named_parameters():
            name = _WRAPPERS.sub("", wrapped)
            factor = rate_factor(name, optim, model.vision_tower.layers_run)
            if parameter.requires_grad and factor != 1.0:
                names_of.setdefault(factor, set()).add(wrapped)
    least = optim.learning_rate if optim.decay is LrDecay.constant else optim.min_learning_rate
    return {
        _key_of(names): {
            "lr_mult": factor,
            "max_lr": optim.learning_rate * factor,
            "min_lr": least * factor,
        }
        for factor, names in names_of.items()
    }


def _key_of(names: set[str]) -> ParamKey:
    predicate = ParamWithNamePredicate(" ".join(sorted(names)), lambda _, name: name in names)
    return ParamKey(with_name_predicate=predicate)
