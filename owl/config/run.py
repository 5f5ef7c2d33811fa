# SPDX-License-Identifier: Apache-2.0
"""RunConfig: the tree of every setting, with a description under each.

Plain dataclasses: nothing here uses hydra (owl/config/load.py does) or torch. Each node checks
itself in `problems()`; checks that span nodes are in owl/config/check.py. The nodes are defined in
model.py, data.py and training.py; importers of several take them from here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from owl.config.choices import (
    AttentionKind,
    ChangePolicy,
    CommBackend,
    CutPolicy,
    DeviceKind,
    FamilyKind,
    ImageLibrary,
    LayerBackend,
    LiteralPolicy,
    LoraTarget,
    LrDecay,
    MetricKind,
    ModelPart,
    OversizePolicy,
    PictureFit,
    Precision,
    ProjectorKind,
    Recompute,
    ScaleKind,
    TowerKind,
    VisionParallelism,
    WandbMode,
)
from owl.config.data import (
    BatchConfig,
    DataConfig,
    PackConfig,
    SourceConfig,
)
from owl.config.evaluation import EvaluateConfig
from owl.config.lora import LoraConfig
from owl.config.model import (
    AbstractorConfig,
    ModelConfig,
    VisionTowerConfig,
)
from owl.config.training import (
    CheckpointConfig,
    LogConfig,
    OptimConfig,
    ParallelConfig,
    PartRates,
    StageConfig,
    Trainable,
)

__all__ = [
    "AbstractorConfig",
    "AttentionKind",
    "BatchConfig",
    "ChangePolicy",
    "CheckpointConfig",
    "CommBackend",
    "CutPolicy",
    "DataConfig",
    "DeviceKind",
    "EvaluateConfig",
    "FamilyKind",
    "ImageLibrary",
    "LayerBackend",
    "LiteralPolicy",
    "LogConfig",
    "LoraConfig",
    "LoraTarget",
    "LrDecay",
    "MetricKind",
    "ModelConfig",
    "ModelPart",
    "OptimConfig",
    "OversizePolicy",
    "PackConfig",
    "ParallelConfig",
    "PartRates",
    "PictureFit",
    "Precision",
    "ProjectorKind",
    "Recompute",
    "RunConfig",
    "ScaleKind",
    "ScaleSettings",
    "SourceConfig",
    "StageConfig",
    "TowerKind",
    "Trainable",
    "VisionParallelism",
    "VisionTowerConfig",
    "WandbMode",
]


@dataclass(kw_only=True)
class ScaleSettings:
    """Steps, batch, budgets and learning rates of an experiment at one scale."""

    train_steps: int = 100
    samples_per_step: int = 32
    text_tokens: int = 768
    tiles: int = 16
    learning_rate: float | None = None
    min_learning_rate: float | None = None
    recompute: Recompute = Recompute.none


@dataclass(kw_only=True)
class RunConfig:
    """All settings of one run."""

    output: str = "runs/${stage.name}"
    """Run folder: composed configuration, metrics.jsonl and checkpoints."""
    seed: int = 1234
    """Seed of initialisation and dropout; the data has its own."""
    precision: Precision = Precision.bf16
    dry_run: bool = False
    """Print the plan (layers, parameters, micro-batches) and stop."""
    scale: ScaleKind = ScaleKind.demo
    recipe: dict[str, ScaleSettings] = field(default_factory=dict)
    """An experiment's settings at each scale; `scale=` copies one of them into the nodes below."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pack: PackConfig = field(default_factory=PackConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    @property
    def trained_parts(self) -> Trainable:
        """Parts whose own weights are trained: the stage's, or with LoRA only lora.also_train."""
        return self.lora.trained_parts(self.stage.trainable)

    @property
    def learning_parts(self) -> Trainable:
        """Parts in which anything is trained, adapters included."""
        return self.lora.learning_parts(self.stage.trainable)

    @property
    def counted_parts(self) -> Trainable:
        """Parts to count operations by; with LoRA, where gradients pass."""
        return self.lora.counted_parts(self.stage.trainable)

    @property
    def learns_from_text(self) -> bool:
        """Whether a pack without pictures and videos moves any weight."""
        return self.learning_parts.language_model

    def problems(self) -> Iterator[str]:
        """Yield the problems of every node, in the order the nodes are written here."""
        nodes = (self.model, self.data, self.pack, self.batch, self.stage, self.lora)
        more = (self.optim, self.parallel, self.checkpoint, self.log, self.evaluate)
        for node in (*nodes, *more):
            yield from node.problems()
