# SPDX-License-Identifier: Apache-2.0
"""Read a checkpoint in any layout: weights alone, or everything that a resumed run needs."""

import json
import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from torch import Tensor, nn

from owl.checkpoint.content import (
    EXTRA_STATE,
    OPTIMIZER_SHARDING,
    random_states,
    restore_random_states,
    weight_shards,
)
from owl.checkpoint.resize import ask_as_stored, resize_loaded
from owl.checkpoint.save import LORA
from owl.checkpoint.state import TrainState
from owl.config.node import build_node
from owl.config.run import FamilyKind, LoraConfig, ModelConfig
from owl.errors import CheckpointError
from owl.mcore.adapters import add_adapters, has_adapters, merge_adapters
from owl.mcore.parameters import unwrapped
from owl.mcore.process_groups import ProcessGroups

# How a model is computed or named: these may differ between checkpoint and run.
_FREE = {
    *("name", "attention", "layer_backend", "init_std", "max_position_embeddings"),
    "vision_tower.parallelism",
}
# How samples are read, which a stage may change.
_READING = (
    *("template", "vision_tower.image_size"),
    *(f"{family}.fit" for family in FamilyKind),
)


def load_weights(
    checkpoint: Path, chunks: Sequence[nn.Module], model: ModelConfig, groups: ProcessGroups
) -> None:
    """Load weights into unwrapped or wrapped model chunks; every rank calls this together.

    Where the checkpoint has adapters and the chunks have none, they are merged into the weights:
    the model computes what the checkpoint's run computed. Pictures may have had another size: the
    vision tower's position table is resized.
    """
    check_can_start(checkpoint, model)
    lora, stored = load_lora_config(checkpoint), load_model_config(checkpoint)
    merges = lora.is_on and not has_adapters(chunks)
    if merges:
        add_adapters(chunks, lora, seed=groups.seed)
    content = weight_shards(chunks, groups)
    ask_as_stored(content, stored.vision_tower)
    loaded = _load(content, checkpoint)
    resize_loaded(loaded, stored, model)
    _fill(chunks, loaded)
    if merges:
        merge_adapters(chunks)


def load_everything(
    checkpoint: Path,
    chunks: Sequence[nn.Module],
    optimizer: Any,
    model: ModelConfig,
    groups: ProcessGroups,
) -> TrainState:
    """Load weights, optimizer, random states and training state; every rank calls this together.

    Random states are loaded in the layout that saved them only.

    Returns:
        The training state.
    """
    check_same_model(checkpoint, model)
    training = json.loads((checkpoint / "training.json").read_text())
    weights = weight_shards(chunks, groups)
    content = dict(weights)
    content["optimizer"] = optimizer.sharded_state_dict(
        weights, is_loading=True, metadata=OPTIMIZER_SHARDING
    )
    same_layout = training["layout"] == {"tensor": groups.tp_size, "pipeline": groups.pp_size}
    if same_layout:
        content["random_states"] = random_states(groups)
    loaded = _load(content, checkpoint)
    _fill(chunks, loaded)
    optimizer.load_state_dict(loaded["optimizer"])
    if same_layout:
        restore_random_states(loaded["random_states"])
    return TrainState.from_dict(training)


def load_model_config(checkpoint: Path) -> ModelConfig:
    """Read the architecture that a checkpoint was saved with."""
    path = checkpoint / "model.json"
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint} has no model.json: it is no checkpoint of this trainer."
        )
    return build_node(ModelConfig, json.loads(path.read_text()))


def load_lora_config(checkpoint: Path) -> LoraConfig:
    """Read what adapters a checkpoint has; those of most have no target."""
    path = checkpoint / LORA
    return build_node(LoraConfig, json.loads(path.read_text())) if path.is_file() else LoraConfig()


def load_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Read all weights of a checkpoint, unsharded, under the names of an unsplit model.

    Needs a process group of one. The vocabulary may have padding rows.
    """
    plain = dist_checkpointing.load_plain_tensors(str(checkpoint))
    return {
        name: tensor
        for name, tensor in plain.items()
        if isinstance(tensor, Tensor) and not name.startswith("optimizer.")
    }


def check_can_start(checkpoint: Path, model: ModelConfig) -> None:
    """Raise CheckpointError when a checkpoint's weights do not fit a model.

    How samples are read may differ: a stage has its own template and its own pictures.
    """
    check_same_model(checkpoint, model, may_differ=_READING)


def check_same_model(
    checkpoint: Path,
    model: ModelConfig,
    other: str = "the run",
    next_step: str = "Choose the model= that the checkpoint was made with.",
    *,
    may_differ: Collection[str] = (),
) -> None:
    """Raise CheckpointError with every difference when a checkpoint is of another model.

    Args:
        checkpoint: its folder.
        model: the architecture that it should have.
        other: the source of `model`, for the message.
        next_step: last sentence of the message.
        may_differ: settings that are not compared.
    """
    stored = _flat(asdict(load_model_config(checkpoint)))
    wanted = _flat(asdict(model))
    differences = [
        f"  model.{name}: {stored.get(name)} in the checkpoint, {wanted.get(name)} in {other}"
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name) != wanted.get(name) and name not in {*_FREE, *may_differ}
    ]
    if differences:
        raise CheckpointError(
            f"{checkpoint} holds another model:\n" + "\n".join(differences) + f"\n{next_step}"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return flat


def _load(content: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own internals
        return dist_checkpointing.load(content, str(checkpoint))


def _fill(chunks: Sequence[nn.Module], loaded: dict[str, Any]) -> None:
    for index, chunk in enumerate(chunks):
        keys = unwrapped(chunk).load_state_dict(loaded[f"model{index}"], strict=False)
        missing = [name for name in keys.missing_keys if not name.endswith(EXTRA_STATE)]
        if missing or keys.unexpected_keys:  # an internal error: dist_checkpointing reports users'
            raise CheckpointError(f"not filled: {missing}; no place for: {keys.unexpected_keys}")
