# SPDX-License-Identifier: Apache-2.0
"""RunConfig: the tree of every setting, with a sentence under each.

Plain dataclasses: nothing here knows hydra (owl/config/load.py does) or torch. Each node checks
itself in `problems()`; questions that span nodes are in owl/config/check.py.
"""

from dataclasses import dataclass, field
from enum import StrEnum

# Enum members are matched by *name* on the command line, so name and value are kept equal.


class FusionKind(StrEnum):
    """How image features join the text stream inside a hyper-attention layer."""

    token_gate = "token_gate"  # 7B-240728: gate computed per token and head from the text output
    static_gate = "static_gate"  # 1B/2B-241014: one learned gate vector
    joint_softmax = "joint_softmax"  # 7B-241101: text and image keys share one softmax


class ProjectorKind(StrEnum):
    """What carries tower features to the decoder's width."""

    linear = "linear"  # 240728, 241014
    mlp = "mlp"  # 241101: linear, exact GELU, linear


class TemplateKind(StrEnum):
    """The published prompt templates for cut pictures and videos."""

    v2 = "v2"  # 240728: "Cut to 2 rows 3 columns with a global view"
    v3 = "v3"  # 241014, 241101: "<|start_cut|>2*3"


class AttentionKind(StrEnum):
    """Which code computes attention over a pack. All give the same numbers."""

    reference = "reference"  # dense masks for the whole pack: for tests
    per_sample = "per_sample"  # torch SDPA, sample by sample: CPU and GPU


class LayerBackend(StrEnum):
    """Where linear layers come from."""

    local = "local"  # megatron.core.tensor_parallel
    transformer_engine = "transformer_engine"  # needs the gpu extra


class VisionParallelism(StrEnum):
    """How a tensor-parallel group shares the vision tower."""

    tensor = "tensor"  # every rank holds a slice of each layer


class Precision(StrEnum):
    """Number format of weights and activations. The optimizer keeps float32 where it is lower."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"  # with a dynamic loss scaler
    fp64 = "fp64"  # for parity tests


class CutPolicy(StrEnum):
    """Whether single pictures are cut into a grid of tiles plus a global view."""

    off = "off"
    on = "on"
    published = "published"  # SFT: text-rich 100 %, other single pictures 20 %, several pictures 0 %


class ScaleKind(StrEnum):
    """How much of an experiment to run: `scale=` picks the file that sets these amounts."""

    demo = "demo"
    published = "published"


class Recompute(StrEnum):
    """Which activations are recomputed in the backward pass instead of kept."""

    none = "none"
    selective = "selective"  # core attention only
    full = "full"  # whole layers


class LrDecay(StrEnum):
    """Shape of the learning rate after warm-up."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"


@dataclass(kw_only=True)
class VisionTowerConfig:
    """SigLIP. The feature used is the output of layer num_layers - 1: the last layer is not run."""

    hidden_size: int = 1152
    ffn_hidden_size: int = 4304
    num_layers: int = 27
    """Layers in the checkpoint; one less is computed (the published model reads hidden_states[-2])."""
    num_attention_heads: int = 16
    image_size: int = 384
    """Side of a tile in pixels."""
    patch_size: int = 14
    layer_norm_eps: float = 1e-6
    parallelism: VisionParallelism = VisionParallelism.tensor

    @property
    def patches_per_tile(self) -> int:
        """Keys that one tile costs in each hyper layer (729 as published)."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(kw_only=True)
class HyperAttentionConfig:
    """The layers that look at images, and how."""

    layer_indices: list[int] = field(default_factory=lambda: [0, 8, 16, 24])
    """0-based. The Hugging Face field `hyper_layers` is 1-based; `owl.convert` shifts it."""
    fusion: FusionKind = FusionKind.token_gate
    media_position_shift: int = 1
    """Added to a placeholder's first index to give the tile's position: 1 in 240728 and 241014,
    0 in 241101. A token sees the tile when its own position is at or after that."""


@dataclass(kw_only=True)
class ModelConfig:
    """A Qwen2 decoder with hyper-attention layers, a SigLIP tower and a projector."""

    name: str = "owl3_tiny"
    hidden_size: int = 128
    ffn_hidden_size: int = 256
    num_layers: int = 4
    num_attention_heads: int = 4
    num_kv_heads: int = 2
    vocab_size: int = 63
    """Rows of the embedding table; any number, padding for tensor parallelism is never saved."""
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = False
    init_std: float = 0.02
    template: TemplateKind = TemplateKind.v2
    projector: ProjectorKind = ProjectorKind.linear
    hyper_attention: HyperAttentionConfig = field(default_factory=HyperAttentionConfig)
    vision_tower: VisionTowerConfig = field(default_factory=VisionTowerConfig)
    attention: AttentionKind = AttentionKind.per_sample
    layer_backend: LayerBackend = LayerBackend.local

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(kw_only=True)
class SourceConfig:
    """One folder of prepared shards."""

    path: str = ""
    """Folder that holds dataset.json (written by `python data_tools/prepare.py`)."""
    weight: float = 1.0
    """Share in the blend, relative to the other sources."""
    cut: CutPolicy | None = None
    """Overrides `data.cut` for this source."""


@dataclass(kw_only=True)
class DataConfig:
    """Where samples come from and how they are read."""

    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Name -> source; the names appear in logs and error messages."""
    tokenizer: str = ""
    """Folder with tokenizer.json, or with vocab.json and merges.txt."""
    cut: CutPolicy = CutPolicy.off
    seed: int = 1234
    """Order of samples and packs, and every random choice made while encoding."""
    num_workers: int = 0
    """Processes that read and decode beside the trainer. The batches do not depend on it."""
    max_skipped_fraction: float = 0.001
    """Abort when more than this share of the samples read had content errors..."""
    max_skipped_samples: int = 20
    """...but only above this many."""
    demo: bool = False
    """Make the embedded demo's data and start weights on first use."""


@dataclass(kw_only=True)
class PackConfig:
    """Several samples in one row, under two budgets."""

    enabled: bool = True
    """Off: a pack holds one sample, and batch sizes count samples as published."""
    text_tokens: int = 4096
    """Tokens per row, placeholders included; also the longest sample that is kept."""
    tiles: int = 40
    """Tiles per row: one tile is 5 text tokens but 729 keys."""
    window: int = 1024
    """Samples that are packed together; packs never span two windows."""


@dataclass(kw_only=True)
class BatchConfig:
    """How much one optimizer step sees."""

    samples_per_step: int | None = None
    """The published batch size. With packing off it is the global batch; with packing on the global
    batch is chosen to hold about this many samples. Ignored when global_batch_size is set."""
    global_batch_size: int | None = None
    """Packs per optimizer step over all ranks."""
    micro_batch_size: int = 1
    """Packs per rank per forward; they are laid end to end in one row."""


@dataclass(kw_only=True)
class Trainable:
    """Which parts learn."""

    vision_tower: bool = False
    projector: bool = True
    language_model: bool = False
    fusion: bool = True
    """Media key-value projections and gates of the hyper layers."""


@dataclass(kw_only=True)
class StageConfig:
    """What is trained and how: `+experiment=` picks one."""

    name: str = "pretrain"
    trainable: Trainable = field(default_factory=Trainable)
    train_steps: int = 100


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW through Megatron's (distributed) optimizer."""

    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-5
    warmup_fraction: float = 0.03
    decay: LrDecay = LrDecay.cosine
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_grad_norm: float = 1.0
    """0 switches clipping off."""
    distributed: bool = True
    """Shard optimizer state over the data-parallel ranks (ZeRO-1)."""
    initial_loss_scale: float = 65536.0
    """fp16 only: where the dynamic loss scale starts."""


@dataclass(kw_only=True)
class ParallelConfig:
    """Degrees of each kind of parallelism; what is left of the world is data parallel."""

    tensor: int = 1
    pipeline: int = 1
    sequence: bool = False
    """Shard norms and residuals along the sequence inside a tensor-parallel group."""
    recompute: Recompute = Recompute.none
    backend: str = "auto"
    """auto, nccl or gloo. auto: nccl where a GPU is, else gloo."""
    device: str = "auto"
    """auto, cuda or cpu."""
    timeout_minutes: float = 10.0
    """A collective that waits longer ends the job."""


@dataclass(kw_only=True)
class CheckpointConfig:
    """What is saved, and what training starts from."""

    start_from: str | None = None
    """Checkpoint (or run folder) whose weights training starts from: optimizer and data are new."""
    every_steps: int = 100
    keep: int = 3
    """Newest checkpoints that stay; 0 keeps all."""
    resume: bool = True
    """Go on from the newest checkpoint in the run folder, if there is one."""


@dataclass(kw_only=True)
class LogConfig:
    """What a run says, and where."""

    every_steps: int = 1
    tensorboard: bool = False
    wandb: bool = False
    wandb_project: str = "owl3"
    wandb_mode: str = "offline"
    """online, offline or disabled."""


@dataclass(kw_only=True)
class Amount:
    """One scale of an experiment: steps, batch and budgets that belong together."""

    train_steps: int = 100
    samples_per_step: int = 32
    text_tokens: int = 768
    tiles: int = 16
    learning_rate: float | None = None
    min_learning_rate: float | None = None


@dataclass(kw_only=True)
class RunConfig:
    """Everything one run does."""

    output: str = "runs/${stage.name}"
    """Run folder: composed configuration, metrics.jsonl and checkpoints."""
    seed: int = 1234
    """Initialisation and dropout; the data has its own seed."""
    precision: Precision = Precision.bf16
    dry_run: bool = False
    """Build the plan (layers, parameters, micro-batches), print it and stop."""
    scale: ScaleKind = ScaleKind.demo
    recipe: dict[str, Amount] = field(default_factory=dict)
    """An experiment's amounts at each scale; `scale=` copies one of them into the nodes below."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pack: PackConfig = field(default_factory=PackConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
