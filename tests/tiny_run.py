# SPDX-License-Identifier: Apache-2.0
"""A whole run small enough for a test: real shards, a tiny Owl3, any layout."""

import json
from pathlib import Path

from owl.config.run import (
    BatchConfig,
    CheckpointConfig,
    DeviceKind,
    ModelConfig,
    OptimConfig,
    PackConfig,
    ParallelConfig,
    Precision,
    ProjectorKind,
    RunConfig,
    StageConfig,
    Trainable,
    VisionTowerConfig,
)
from owl.families.owl3.config import FusionKind, HyperAttentionConfig
from owl.train.metrics_writers import read_metrics
from tests.unit.data.shard_factory import data_config, write_chats

EVERYTHING = Trainable(vision_tower=True, projector=True, language_model=True, fusion=True)


def tiny_model(fusion: FusionKind = FusionKind.token_gate, **changes) -> ModelConfig:
    """Four layers, 28-pixel tiles of four patches, the byte tokenizer's vocabulary (odd)."""
    joint = fusion is FusionKind.joint_softmax
    settings = {
        "name": "tiny",
        "hidden_size": 32,
        "ffn_hidden_size": 48,
        "num_layers": 4,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "vocab_size": 259,
        "projector": ProjectorKind.mlp if joint else ProjectorKind.linear,
        "hyper_attention": HyperAttentionConfig(
            layer_indices=[1, 3], fusion=fusion, media_position_shift=0 if joint else 1
        ),
        "vision_tower": VisionTowerConfig(
            hidden_size=16,
            ffn_hidden_size=24,
            num_layers=3,
            num_attention_heads=2,
            image_size=28,
        ),
    }
    return ModelConfig(**(settings | changes))


def tiny_run(folder: Path, *, train_steps: int = 4, **changes) -> RunConfig:
    """Describe a run over 40 chats with 0 to 2 pictures each, written below `folder`."""
    shards = folder / "shards"
    if not shards.is_dir():
        write_chats(shards, shards=2, samples=20)
    settings = {
        "output": str(folder / "run"),
        "precision": Precision.fp32,
        "model": tiny_model(),
        "data": data_config(folder, shards),
        "pack": PackConfig(text_tokens=256, tiles=8, window=16),
        "batch": BatchConfig(global_batch_size=4),
        "stage": StageConfig(name="test", trainable=EVERYTHING, train_steps=train_steps),
        "optim": OptimConfig(learning_rate=1e-3, warmup_fraction=0.0),
        "parallel": ParallelConfig(device=DeviceKind.cpu, timeout_minutes=1),
        "checkpoint": CheckpointConfig(every_steps=2, keep=0),
    }
    return RunConfig(**(settings | changes))


def losses(folder: Path) -> list[float]:
    """Read the losses that a run wrote, in full precision."""
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]


def training_state(checkpoint: Path) -> dict:
    """Read the training state stored in a checkpoint."""
    return json.loads((checkpoint / "training.json").read_text())
