# SPDX-License-Identifier: Apache-2.0
"""Train a small model for a few steps in one layout, and gather everything that it computed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from owl.config.run import (
    DeviceKind,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    Precision,
)
from owl.convert.families import PUBLISHED
from owl.data.samples import PackedBatch
from owl.mcore.adapters import add_adapters
from owl.mcore.optimizer import build_megatron_optimizer, optimizer_config
from owl.mcore.parameters import VOCABULARY_TABLES, global_names, load_full, merge_shards
from owl.mcore.process_groups import ProcessGroups
from owl.mcore.provider import build_model, synchronized_weights, wrap_for_training
from owl.mcore.schedule import attach_to_schedule, forward_backward, sum_over_data_parallel
from owl.model.lora import is_adapter
from owl.parity.layouts import LORA, TRAINABLE, Layout
from owl.parity.packs import make_packs

STEPS = 3
OPTIMIZERS = ("sgd", "adamw")
BUCKET_SIZE = 4000
"""Parameters whose gradients are reduced together, so that there are several: Megatron's default
would hold the entire model."""
LEARNING_RATE = {"sgd": 0.05, "adamw": 1e-3}
FullTensors = dict[str, Tensor]  # published name -> unsharded tensor, on the CPU


@dataclass(frozen=True)
class Outcome:
    """What a trial computed; complete on rank 0, empty elsewhere."""

    losses: dict[str, list[float]]  # optimizer -> loss of each step
    token_losses: dict[str, list[Tensor]]  # optimizer -> loss of each supervised token, by step
    gradients: dict[str, FullTensors]  # of each step of SGD, and of the first of AdamW
    parameters: dict[str, FullTensors]  # optimizer -> after the last step


def start_weights(model: ModelConfig, groups: ProcessGroups, precision: Precision) -> FullTensors:
    """Draw weights for a trial, under our names, adapters included; call it in a job of one."""
    torch.manual_seed(7)
    chunks = build_model(model, Layout().parallel(DeviceKind.auto), precision, groups)
    add_adapters(chunks, LORA["lora"], seed=groups.seed)
    weights: FullTensors = {}
    for name, parameter in global_names(chunks):
        noise = torch.randn_like(parameter) * 0.08  # biases and gates away from zero too
        is_scale = "norm." in name and name.endswith(".weight")
        weights[name] = (noise + 1 if is_scale else noise).detach().cpu()
    vocabulary = model.vocab_size
    return {
        name: weight[:vocabulary] if name in VOCABULARY_TABLES else weight
        for name, weight in weights.items()
    }


def run_trial(
    layout: Layout,
    model: ModelConfig,
    weights: Mapping[str, Tensor],
    groups: ProcessGroups,
    precision: Precision,
    device: DeviceKind,
) -> Outcome:
    """Train a few steps with plain SGD, and again with AdamW, from the same weights."""
    model = replace(
        model,
        attention=layout.attention,
        vision_tower=replace(model.vision_tower, parallelism=layout.tower),
    )
    losses: dict[str, list[float]] = {}
    token_losses: dict[str, list[Tensor]] = {}
    parameters: dict[str, FullTensors] = {}
    gradients: dict[str, FullTensors] = {}
    for kind in OPTIMIZERS:
        chunks, optimizer = _trainable(layout, model, weights, groups, precision, device, kind)
        seen = _SupervisedLosses(chunks[-1]) if groups.is_last_stage else None
        losses[kind], token_losses[kind] = [], []
        for step in range(STEPS):
            batches = _my_packs(make_packs(model, seed=step, cut=layout.cut), groups)
            for chunk in chunks:
                chunk.zero_grad_buffer()
            optimizer.zero_grad()
            weight = sum(batch.supervised_weight for batch in batches)
            # AdamW makes steps of what is all rounding: no later gradients of its.
            with_gradients = kind == "sgd" or step == 0
            loss = forward_backward(
                chunks,
                batches,
                groups,
                total_weight=sum_over_data_parallel(weight, groups),
                full_gradients=with_gradients,
            )
            losses[kind].append(loss)
            token_losses[kind].append(_over_ranks(seen.take() if seen else [], groups))
            if with_gradients:
                gradients[f"{kind} step {step + 1}"] = gather_published(
                    chunks, model, groups, gradients=True
                )
            optimizer.step()
        with synchronized_weights(chunks):
            parameters[kind] = gather_published(chunks, model, groups, gradients=False)
    return Outcome(losses, token_losses, gradients, parameters)


def _trainable(
    layout: Layout,
    model: ModelConfig,
    weights: Mapping[str, Tensor],
    groups: ProcessGroups,
    precision: Precision,
    device: DeviceKind,
    kind: str,
) -> tuple[list[nn.Module], Any]:
    parallel = layout.parallel(device)
    sharded = layout.gradients != "plain"
    if kind == "sgd":  # Megatron's distributed optimizer takes Adam only
        sharded = parallel.overlap_param_gather = False
    chunks = build_model(model, parallel, precision, groups)
    add_adapters(chunks, LORA.get(layout.learns, LoraConfig()), seed=groups.seed)
    embedding, head = VOCABULARY_TABLES
    tied = {head: weights[embedding]} if model.tie_word_embeddings else {}
    missing = load_full(chunks, (dict(weights) | tied).items())
    assert not missing, f"the reference has no {missing}"
    chunks = wrap_for_training(
        chunks,
        TRAINABLE[layout.learns],
        parallel,
        precision=precision,
        distributed_optimizer=sharded,
        bucket_size=BUCKET_SIZE,
    )
    rate = LEARNING_RATE[kind]
    # Megatron measures the norm to clip by in float32: clipping would hide what float64 shows.
    optim = OptimConfig(
        learning_rate=rate, min_learning_rate=rate, clip_grad_norm=0.0, distributed=sharded
    )
    config = optimizer_config(optim, precision)
    config.optimizer = "sgd" if kind == "sgd" else "adam"
    config.sgd_momentum = 0.0
    config.overlap_param_gather = parallel.overlap_param_gather
    optimizer = build_megatron_optimizer(config, chunks)
    attach_to_schedule(chunks, optimizer, groups)
    return chunks, optimizer


class _SupervisedLosses:
    """Notes the loss of each supervised token that the last stage computes, in order."""

    def __init__(self, last_stage: nn.Module) -> None:
        self._noted: list[Tensor] = []
        last_stage.register_forward_hook(self._note)

    def _note(self, _: nn.Module, inputs: tuple[PackedBatch], losses: Tensor) -> None:
        (batch,) = inputs
        self._noted.append(losses.detach()[batch.loss_weights > 0].cpu())

    def take(self) -> list[Tensor]:
        """Return what was noted, and forget it."""
        noted, self._noted = self._noted, []
        return noted


def _over_ranks(mine: list[Tensor], groups: ProcessGroups) -> Tensor:
    """Bring the data-parallel ranks' token losses together, in the order of the samples."""
    ranks: list[list[Tensor]] = [[] for _ in range(groups.dp_size)]
    dist.all_gather_object(ranks, mine, group=groups.collection.dp)
    stages: list[list[Tensor]] = [[] for _ in range(groups.pp_size)]
    in_order = [losses for rank in ranks for losses in rank]
    dist.all_gather_object(stages, in_order, group=groups.collection.pp)
    return torch.cat(stages[-1])


def _my_packs(packs: list[PackedBatch], groups: ProcessGroups) -> list[PackedBatch]:
    """This data-parallel rank's micro-batches: a run of them, so that one rank sees text only."""
    each = len(packs) // groups.dp_size
    return packs[groups.dp_rank * each : (groups.dp_rank + 1) * each]


def gather_published(
    chunks: list[nn.Module], model: ModelConfig, groups: ProcessGroups, *, gradients: bool
) -> FullTensors:
    """Collect what learns, or its gradients, from all ranks, unsharded, by published name.

    Returns:
        On rank 0; empty on the others, all of which call this.
    """
    parameters = {
        name: parameter for name, parameter in global_names(chunks) if parameter.requires_grad
    }
    mine = {
        name: (parameter.main_grad if gradients else parameter.detach()).cpu()
        for name, parameter in parameters.items()
    }
    # Everything at once: tensor by tensor, the collectives would cost more than the training.
    ranks: list[FullTensors] = [{} for _ in range(groups.tp_size)]
    dist.all_gather_object(ranks, mine, group=groups.collection.tp)
    full = {
        name: merge_shards([rank[name] for rank in ranks], parameter)
        for name, parameter in parameters.items()
    }
    stages: list[FullTensors] = [{} for _ in range(groups.pp_size)]
    dist.all_gather_object(stages, full, group=groups.collection.pp)
    if not groups.is_writer:
        return {}
    ours: FullTensors = {}
    for stage in reversed(stages):  # a tied table lives on the first stage and on the last
        ours |= stage
    return dict(_published(ours, model))


def _published(ours: FullTensors, model: ModelConfig) -> list[tuple[str, Tensor]]:
    # An adapter has a pair for each published projection already.
    pairs = [(name, full) for name, full in ours.items() if is_adapter(name)]
    for entry in PUBLISHED[model.family].entries(model):
        if entry.ours not in ours:
            continue
        full = ours[entry.ours]
        full = full[: model.vocab_size] if entry.ours in VOCABULARY_TABLES else full
        pairs.extend(zip(entry.published, entry.to_published(full), strict=True))
    return pairs
