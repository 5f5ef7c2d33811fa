# SPDX-License-Identifier: Apache-2.0
"""LoRA: low-rank adapters on the linear layers of a built model.

A published projection W x becomes W x + alpha / rank x B A x, with one pair of matrices for each
projection, also where several share a layer here: queries, keys and values, gate and up.

The pairs follow the layer that they are on. Where its output is cut over a tensor group, every rank
has A, and B's rows of its own output; where its input is cut, A's columns of its own input, and B.
Only the rank-wide rows in between cross the group: [t, 1, r], not [t, 1, h].
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.random import get_data_parallel_rng_tracker_name
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn

from owl.config.run import LoraConfig, LoraTarget
from owl.model.norm import at_least_float32

ADAPTERS = "lora"
"""Name of the module that a linear layer with adapters has."""
WHOLE = "whole"
"""Name of the pair on a layer that is one published projection."""
_FUSED = {
    "linear_qkv": ("q", "k", "v"),
    "linear_fc1": ("gate", "up"),
    "linear_media_kv": ("media_k", "media_v"),
}
_TARGETS = {
    "linear_proj": LoraTarget.o,
    "linear_fc2": LoraTarget.down,
    "linear_media_kv": LoraTarget.media_kv,
}


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter, by its name in our model."""
    return f".{ADAPTERS}." in name


def pair_names(layer: str, projections: int) -> tuple[str, ...]:
    """Name the pairs of a linear layer, in the order of its published projections.

    Args:
        layer: the layer's own name: "linear_qkv".
        projections: how many published ones it is made of.
    """
    return _FUSED[layer] if projections > 1 else (WHOLE,)


def target_of(path: str, pair: str) -> LoraTarget:
    """Return the target that a pair belongs to.

    Args:
        path: of its linear layer in our model: "decoder.layers.0.mlp.linear_fc1".
        pair: its name on that layer: "gate".
    """
    if path.startswith("vision_tower."):
        return LoraTarget.tower
    if path.startswith("projector."):
        return LoraTarget.projector
    return _TARGETS.get(path.rpartition(".")[2]) or LoraTarget(pair)


@dataclass(frozen=True)
class Split:
    """How the rows of a linear layer on this rank divide among published projections.

    In each of `groups` equal parts, every projection has `rows` of its own, one after another.
    """

    groups: int
    rows: Mapping[str, int]  # by name of the pair

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Bring outputs of projections, each [.., groups * rows], into the layer's order.

        Projections that are missing add zero.
        """
        some = next(iter(parts.values()))
        blocks = []
        for name, rows in self.rows.items():
            part = parts.get(name)
            if part is None:
                part = some.new_zeros(*some.shape[:-1], self.groups * rows)
            blocks.append(part.unflatten(-1, (self.groups, rows)))
        return torch.cat(blocks, dim=-1).flatten(-2)


class Adapters(nn.Module):
    """The pairs on one linear layer: `q_a` is [r, in here] and `q_b` is [rows here, r].

    Args:
        linear: the layer.
        split: its rows on this rank.
        names: the projections that get a pair.
        lora: rank, scale and dropout.
    """

    def __init__(self, linear: nn.Module, split: Split, names: list[str], lora: LoraConfig) -> None:
        super().__init__()
        weight: Any = linear.weight
        self.names, self.split, self.rank = names, split, lora.rank
        self.scale, self.dropout = lora.scale, lora.dropout
        # The weight's dimension that is cut over the tensor group, None where ranks have copies.
        self.cut = weight.partition_dim if getattr(weight, "tensor_model_parallel", False) else None
        self.group = getattr(linear, "tp_group", None) or getattr(linear, "_tp_group", None)
        # Rows of the input, or of the output where the input is cut, are this rank's share.
        self.shares_rows = bool(getattr(linear, "sequence_parallel", False))
        self.own_tiles = getattr(weight, "partial_over_tensor_group", False)
        for name in names:
            rows = split.groups * split.rows[name]
            self._add(f"{name}_a", weight.new_zeros(lora.rank, weight.shape[1]), cut=1)
            self._add(f"{name}_b", weight.new_zeros(rows, lora.rank), cut=0)

    def _add(self, name: str, value: Tensor, *, cut: int) -> None:
        parameter = nn.Parameter(value)
        # B goes along with a layer whose output is cut, A with one whose input is.
        is_cut = self.cut == cut
        set_tensor_model_parallel_attributes(parameter, is_cut, cut if is_cut else -1, 1)
        # The uncut one sees this rank's rows only: Megatron adds the gradients up.
        parameter.sequence_parallel = self.shares_rows and self.cut is not None and not is_cut
        parameter.partial_over_tensor_group = self.own_tiles
        self.register_parameter(name, parameter)

    def forward(self, rows: Tensor) -> Tensor:
        """Compute what is added to the layer's output.

        Args:
            rows: the layer's input, [.., in here].

        Returns:
            [.., rows here], as the layer returns it: reduced, or this rank's share of the output.
        """
        low = torch.cat(
            [F.linear(self._dropped(rows), self.get_parameter(f"{n}_a")) for n in self.names], -1
        )
        low = self._over_ranks(low * self.scale)
        parts = zip(self.names, low.split(self.rank, -1), strict=True)
        return self.split.join({n: F.linear(p, self.get_parameter(f"{n}_b")) for n, p in parts})

    def _over_ranks(self, low: Tensor) -> Tensor:
        """Give each rank what its B multiplies: [.., pairs * r]."""
        if self.cut is None:
            return low
        if self.cut == 0:
            if self.shares_rows:
                return tensor_parallel.gather_from_sequence_parallel_region(low, group=self.group)
            return tensor_parallel.copy_to_tensor_model_parallel_region(low, group=self.group)
        if self.shares_rows:
            return tensor_parallel.reduce_scatter_to_sequence_parallel_region(low, group=self.group)
        return tensor_parallel.reduce_from_tensor_model_parallel_region(low, group=self.group)

    def _dropped(self, rows: Tensor) -> Tensor:
        """Set a share of the input to zero, in training: each pair its own, as PEFT does.

        From Megatron's random states, which checkpoints hold and recomputation restores: one that
        is equal on all ranks of a tensor group where the input is, and this rank's own elsewhere.
        """
        if not (self.training and self.dropout):
            return rows
        is_cut = self.cut == 1 or (self.cut == 0 and self.shares_rows)
        state = () if is_cut or self.own_tiles else (get_data_parallel_rng_tracker_name(),)
        with tensor_parallel.get_cuda_rng_tracker().fork(*state):
            return F.dropout(rows, self.dropout)

    @torch.no_grad()
    def merge_into(self, weight: Tensor) -> None:
        """Add B A to the layer's weight on this rank, computed in float32 at least."""
        updates = {
            name: (at_least_float32(self.get_parameter(f"{name}_b"))
                   @ at_least_float32(self.get_parameter(f"{name}_a"))).T
            for name in self.names
        }  # fmt: skip
        weight.copy_(at_least_float32(weight) + self.scale * self.split.join(updates).T)


def attach(model: nn.Module, lora: LoraConfig) -> None:
    """Put adapters, all zero, on the targets of a built model.

    Call it after every weight exists: the model's own weights keep their names.
    """
    for path, linear in list(_linears(model)):
        in_tower = path.startswith("vision_tower.")
        if in_tower and model.model_config.vision_tower.publishes_qkv_as_one:
            split = Split(1, {WHOLE: linear.weight.shape[0]})
        else:
            parent: Any = model.get_submodule(path.rpartition(".")[0])
            split = _split(parent, path.rpartition(".")[2], linear)
        names = [name for name in split.rows if target_of(path, name) in lora.targets]
        if not names:
            continue
        adapters = Adapters(linear, split, names, lora)
        linear.add_module(ADAPTERS, adapters)
        adapters.hook = linear.register_forward_hook(_add_adapters)
        if hasattr(linear, "sharded_state_dict"):
            linear.sharded_state_dict = partial(_sharded_state_dict, linear)


def merge(model: nn.Module) -> None:
    """Add every adapter to the weight that it is on, and take it away."""
    for _, linear in _linears(model):
        adapters = getattr(linear, ADAPTERS, None)
        if adapters is None:
            continue
        adapters.merge_into(linear.weight)
        adapters.hook.remove()
        delattr(linear, ADAPTERS)
        vars(linear).pop("sharded_state_dict", None)


def _linears(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the linear layers that can have adapters, with their paths."""
    for path, module in model.named_modules():
        layer = path.rpartition(".")[2]
        if layer.startswith("linear") and getattr(module, "weight", None) is not None:
            yield path, module


def _split(parent: Any, layer: str, linear: Any) -> Split:
    """Find out how the rows of a layer divide among published projections."""
    if isinstance(parent, SelfAttention) and layer in _FUSED:
        groups, head = parent.num_query_groups_per_partition, parent.hidden_size_per_attention_head
        queries = parent.num_attention_heads_per_partition // groups * head
        if layer == "linear_qkv":
            return Split(groups, dict(zip(_FUSED[layer], (queries, head, head), strict=True)))
        if getattr(parent, "publishes_media_keys_alone", False):
            return Split(groups, dict.fromkeys(_FUSED[layer], head))
    if isinstance(parent, MLP) and layer == "linear_fc1" and parent.config.gated_linear_unit:
        return Split(1, dict.fromkeys(_FUSED[layer], linear.weight.shape[0] // 2))
    return Split(1, {WHOLE: linear.weight.shape[0]})


def _add_adapters(linear: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
    """Add the adapters to a layer's output; Megatron's layers return a bias with it."""
    update = getattr(linear, ADAPTERS)(inputs[0])
    if isinstance(output, tuple):
        return output[0] + update, *output[1:]
    return output + update


def _sharded_state_dict(
    linear: nn.Module,
    prefix: str = "",
    sharded_offsets: tuple[tuple[int, int, int], ...] = (),
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe a Megatron layer's weights, and the adapters as they are cut.

    The layer alone would take the adapters for copies.
    """
    adapters = getattr(linear, ADAPTERS)
    cuts = {
        name: parameter.partition_dim
        for name, parameter in adapters.named_parameters()
        if parameter.tensor_model_parallel
    }
    shards = type(linear).sharded_state_dict(linear, prefix, sharded_offsets, metadata)
    return shards | make_sharded_tensors_for_checkpoint(
        adapters.state_dict(keep_vars=True),
        f"{prefix}{ADAPTERS}.",
        cuts,
        sharded_offsets,
        tp_group=adapters.group,
        dp_cp_group=(metadata or {})["dp_cp_group"],
    )
