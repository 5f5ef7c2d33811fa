# SPDX-License-Identifier: Apache-2.0
"""RunConfig: the tree of every setting, with a sentence under each.

Plain dataclasses: nothing here knows hydra (owl/config/load.py does) or torch. Each node checks
itself in `problems()`; questions that span nodes are in owl/config/check.py.
"""

from collections.abc import Iterator
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
    abstractor = "abstractor"  # mPLUG-Owl2's: learned queries read the tile and stand for it


class TemplateKind(StrEnum):
    """The published prompt templates for cut pictures and videos."""

    v2 = "v2"  # 240728: "Cut to 2 rows 3 columns with a global view"
    v3 = "v3"  # 241014, 241101: "<|start_cut|>2*3"


class AttentionKind(StrEnum):
    """Which code computes attention over a pack. All give the same numbers."""

    reference = "reference"  # dense masks for the whole pack: for tests
    per_sample = "per_sample"  # torch SDPA, sample by sample: CPU and GPU
    lse_merge = "lse_merge"  # per_sample, but joint_softmax merges an image and a text part
    flex = "flex"  # compiled FlexAttention with a block mask: GPU only


class LayerBackend(StrEnum):
    """Where linear layers come from."""

    local = "local"  # megatron.core.tensor_parallel
    transformer_engine = "transformer_engine"  # needs the gpu extra


class VisionParallelism(StrEnum):
    """How a tensor-parallel group shares the vision tower."""

    tensor = "tensor"  # every rank holds a slice of each layer
    image = "image"  # every rank holds the whole tower and encodes its share of the tiles


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
    published = "published"  # as in SFT: text-rich 100 %, other single pictures 20 %, several 0 %


class OversizePolicy(StrEnum):
    """What becomes of a sample that is longer than a pack. Each case is counted by its code."""

    drop = "drop"
    truncate = "truncate"  # fewer video frames, then leading turns or parts only
    # Hides str.split, which nobody calls on a policy.
    split = "split"  # type: ignore[assignment]  # as truncate, but a document goes on in further samples


class LiteralPolicy(StrEnum):
    """What becomes of text that contains the template's own markup, such as `<|image|>` (E206)."""

    reject = "reject"
    escape = "escape"  # kept as plain text, tokenised so that it can never pass for the markup


class ChangePolicy(StrEnum):
    """What a resumed run does when data, tokenizer, template, budgets or blend have changed."""

    refuse = "refuse"
    next_window = "next_window"  # go on with the new plan at its next window, and log what changed


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


class CommBackend(StrEnum):
    """What carries collectives between processes."""

    auto = "auto"  # nccl where a GPU is, else gloo
    nccl = "nccl"
    gloo = "gloo"


class DeviceKind(StrEnum):
    """Where tensors live."""

    auto = "auto"  # cuda where a GPU is, else cpu
    cuda = "cuda"
    cpu = "cpu"


class WandbMode(StrEnum):
    """Whether Weights & Biases talks to its server."""

    online = "online"
    offline = "offline"  # files under the run folder; `wandb sync` sends them later
    disabled = "disabled"


def _too_small(name: str, value: float, minimum: float, why: str) -> Iterator[str]:
    """Yield a sentence when a number is below the least value that means something."""
    if value < minimum:
        yield f"{name}={value} is below {minimum}: {why}. Use {minimum} or more."


def _outside(name: str, value: float, low: float, high: float, why: str) -> Iterator[str]:
    """Yield a sentence when a number is outside low <= value < high."""
    if not low <= value < high:
        yield f"{name}={value} is outside {low} <= value < {high}: {why}. Choose a value inside."


def _not_dividing(name: str, value: int, whole_name: str, whole: int) -> Iterator[str]:
    """Yield a sentence when a count does not divide the width that is shared out."""
    if value < 1 or whole % value:
        near = ", ".join(str(n) for n in range(1, whole + 1) if whole % n == 0 and n <= 256)
        yield f"{name}={value} does not divide {whole_name}={whole}. Use one of {near}."


@dataclass(kw_only=True)
class VisionTowerConfig:
    """SigLIP. The feature used is the output of layer num_layers - 1: the last layer is not run."""

    hidden_size: int = 1152
    ffn_hidden_size: int = 4304
    num_layers: int = 27
    """Layers in the checkpoint; the last is not computed (the published model reads its input)."""
    num_attention_heads: int = 16
    image_size: int = 384
    """Side of a tile in pixels."""
    patch_size: int = 14
    layer_norm_eps: float = 1e-6
    parallelism: VisionParallelism = VisionParallelism.tensor

    @property
    def patches_per_tile(self) -> int:
        """Patches that the tower makes of one tile (729 as published)."""
        return (self.image_size // self.patch_size) ** 2

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        name = "model.vision_tower"
        yield from _not_dividing(
            f"{name}.num_attention_heads",
            self.num_attention_heads,
            f"{name}.hidden_size",
            self.hidden_size,
        )
        yield from _too_small(
            f"{name}.num_layers", self.num_layers, 2, "the last layer is never run"
        )
        yield from _too_small(f"{name}.patch_size", self.patch_size, 1, "it is a side in pixels")
        yield from _too_small(
            f"{name}.image_size", self.image_size, self.patch_size, "a tile holds a patch or more"
        )


@dataclass(kw_only=True)
class HyperAttentionConfig:
    """The layers that look at images, and how."""

    layer_indices: list[int] = field(default_factory=lambda: [0, 8, 16, 24])
    """0-based. The Hugging Face field `hyper_layers` is 1-based; `owl.convert` shifts it."""
    fusion: FusionKind = FusionKind.token_gate
    media_position_shift: int = 1
    """Added to a placeholder's first index to give the tile's position: 1 in 240728 and 241014,
    0 in 241101. A token sees the tile when its own position is at or after that."""

    def problems(self, num_layers: int) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        name = "model.hyper_attention.layer_indices"
        layers = self.layer_indices
        out_of_range = [i for i in layers if not 0 <= i < num_layers]
        if out_of_range:
            yield (
                f"{name}={layers} names layers {out_of_range}, but the decoder has layers "
                f"0..{num_layers - 1}. If you copied them from a Hugging Face config, subtract 1."
            )
        if layers != sorted(set(layers)):
            yield (
                f"{name}={layers} must rise without repeats. Write {sorted(set(layers))} instead."
            )
        if not layers:
            yield f"{name}=[] leaves no layer that sees images. Name at least one."
        if self.media_position_shift not in (0, 1):
            yield (
                f"model.hyper_attention.media_position_shift={self.media_position_shift} is "
                f"neither 1 (240728, 241014) nor 0 (241101). Use the one of your variant."
            )


@dataclass(kw_only=True)
class AbstractorConfig:
    """The visual abstractor of mPLUG-Owl2; read only where model.projector=abstractor.

    It is as wide as the tower. The defaults are the published ones.
    """

    num_queries: int = 64
    """Vectors that stand for a tile, besides its end vector."""
    num_layers: int = 6
    num_attention_heads: int = 16
    ffn_hidden_size: int = 2816
    ffn_layer_norm_eps: float = 1e-6
    """Of the norm inside the MLP; the others have 1e-5, as published."""

    def problems(self, tower_width: int) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        name = "model.abstractor"
        for size in ("num_queries", "num_layers", "ffn_hidden_size"):
            yield from _too_small(f"{name}.{size}", getattr(self, size), 1, "it counts something")
        yield from _not_dividing(
            f"{name}.num_attention_heads",
            self.num_attention_heads,
            "model.vision_tower.hidden_size",
            tower_width,
        )
        if tower_width % 4:
            yield (
                f"model.vision_tower.hidden_size={tower_width} is not a multiple of 4, but the "
                f"abstractor's positions have a sine and a cosine half for row and column each. "
                f"Use model.projector=linear, or another width."
            )


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
    abstractor: AbstractorConfig = field(default_factory=AbstractorConfig)
    hyper_attention: HyperAttentionConfig = field(default_factory=HyperAttentionConfig)
    vision_tower: VisionTowerConfig = field(default_factory=VisionTowerConfig)
    attention: AttentionKind = AttentionKind.per_sample
    layer_backend: LayerBackend = LayerBackend.local

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def keys_per_tile(self) -> int:
        """Keys that one tile costs in each hyper layer: its patches, or what stands for them."""
        if self.projector is ProjectorKind.abstractor:
            return self.abstractor.num_queries + 1  # and the end vector
        return self.vision_tower.patches_per_tile

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        sizes = ("ffn_hidden_size", "num_layers", "vocab_size", "max_position_embeddings")
        for size in sizes:
            yield from _too_small(f"model.{size}", getattr(self, size), 1, "it counts something")
        width, heads, kv_heads = self.hidden_size, self.num_attention_heads, self.num_kv_heads
        not_divided = [
            *_not_dividing("model.num_attention_heads", heads, "model.hidden_size", width),
            *_not_dividing("model.num_kv_heads", kv_heads, "model.num_attention_heads", heads),
        ]
        yield from not_divided
        if not not_divided and self.head_dim % 2:
            yield (
                f"model.hidden_size={self.hidden_size} over model.num_attention_heads={heads} "
                f"gives heads of width {self.head_dim}, but rotary positions turn pairs. "
                f"Choose sizes whose quotient is even."
            )
        yield from self.hyper_attention.problems(self.num_layers)
        yield from self.vision_tower.problems()
        if self.projector is ProjectorKind.abstractor:
            yield from self.abstractor.problems(self.vision_tower.hidden_size)


@dataclass(kw_only=True)
class SourceConfig:
    """One folder of prepared shards."""

    path: str = ""
    """Folder that holds dataset.json (written by `python data_tools/prepare.py`)."""
    weight: float = 1.0
    """Share in the blend, relative to the other sources."""
    epochs: float | None = None
    """Passes over this source in an epoch of the blend, instead of a weight. All sources or none
    say it."""
    cut: CutPolicy | None = None
    """Overrides `data.cut` for this source."""
    max_frames: int | None = None
    """Overrides `data.max_frames` for this source."""
    oversize: OversizePolicy | None = None
    """Overrides `data.oversize` for this source."""


@dataclass(kw_only=True)
class DataConfig:
    """Where samples come from and how they are read."""

    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Name -> source; the names appear in logs and error messages."""
    tokenizer: str = ""
    """Folder with tokenizer.json, or with vocab.json and merges.txt."""
    cut: CutPolicy = CutPolicy.off
    max_frames: int | None = None
    """Frames that a video shows at most, evenly spaced; null for all that are stored (paper: 8)."""
    oversize: OversizePolicy = OversizePolicy.drop
    special_literals: LiteralPolicy = LiteralPolicy.reject
    quarantine: str = ""
    """File that lists what to leave out, one SHARD/KEY or SHARD a line; # begins a comment."""
    on_change: ChangePolicy = ChangePolicy.refuse
    seed: int = 1234
    """Order of samples and packs, and every random choice made while encoding."""
    num_workers: int = 0
    """Processes that read and decode beside the trainer. The batches do not depend on it."""
    prefetch: int = 2
    """Micro-batches that each of them may be ahead."""
    read_attempts: int = 3
    """Times a failing read is tried, with growing pauses, before the run ends."""
    max_skipped_fraction: float = 0.001
    """Abort when more than this share of a source's samples had content errors..."""
    max_skipped_samples: int = 20
    """...but only above this many."""
    demo: bool = False
    """Make the embedded demo's data and start weights on first use."""
    demo_folder: str = "demo_data"
    """Where the embedded demo is made."""
    demo_shards: str = "stage1"
    """Which of the demo's shards to read, stage1 or stage2: each experiment says."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each number that cannot work.

        Sources and tokenizer are `owl.data.loader.data_problems`'s to judge: it opens them.
        """
        yield from _too_small("data.num_workers", self.num_workers, 0, "it counts processes")
        if self.max_frames is not None:
            yield from _too_small("data.max_frames", self.max_frames, 1, "a video shows a frame")
        yield from _too_small("data.prefetch", self.prefetch, 1, "a worker works on a micro-batch")
        yield from _too_small("data.read_attempts", self.read_attempts, 1, "data have to be read")
        yield from _outside(
            "data.max_skipped_fraction", self.max_skipped_fraction, 0, 1, "it is a share of samples"
        )
        yield from _too_small(
            "data.max_skipped_samples", self.max_skipped_samples, 0, "it counts samples"
        )


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
    tile_cost: float | None = None
    """Text tokens that one tile weighs when packs are dealt to ranks; null: from the model's
    sizes."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        yield from _too_small("pack.text_tokens", self.text_tokens, 2, "a sample predicts a token")
        yield from _too_small("pack.tiles", self.tiles, 1, "rows without images teach no seeing")
        yield from _too_small("pack.window", self.window, 1, "packs are made of its samples")
        if self.tile_cost is not None:
            yield from _too_small("pack.tile_cost", self.tile_cost, 0, "work is not negative")


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

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        yield from _too_small("batch.micro_batch_size", self.micro_batch_size, 1, "it counts packs")
        for name in ("samples_per_step", "global_batch_size"):
            value = getattr(self, name)
            if value is not None:
                yield from _too_small(f"batch.{name}", value, 1, "a step must see something")
        if self.samples_per_step is None and self.global_batch_size is None:
            yield (
                "batch.samples_per_step and batch.global_batch_size are both null. Set the first "
                "(samples a step, as papers count) or the second (packs a step)."
            )


@dataclass(kw_only=True)
class Trainable:
    """Which parts learn."""

    vision_tower: bool = False
    projector: bool = True
    language_model: bool = False
    fusion: bool = True
    """Media key-value projections and gates of the hyper layers."""

    @property
    def frozen(self) -> list[str]:
        """Names of the parts that do not learn."""
        return [name for name, learns in vars(self).items() if not learns]


@dataclass(kw_only=True)
class StageConfig:
    """What is trained and how: `+experiment=` picks one."""

    name: str = "pretrain"
    trainable: Trainable = field(default_factory=Trainable)
    train_steps: int = 100

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        yield from _too_small("stage.train_steps", self.train_steps, 1, "it counts optimizer steps")
        parts = vars(self.trainable)
        if not any(parts.values()):
            yield (
                f"stage.trainable has every part frozen ({', '.join(parts)}). "
                f"Switch at least one on, such as stage.trainable.projector=true."
            )


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

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        rate, least = self.learning_rate, self.min_learning_rate
        if rate <= 0:
            yield f"optim.learning_rate={rate} must be above 0. Published stages use 1e-3 and 2e-5."
        if not 0 <= least <= rate:
            yield (
                f"optim.min_learning_rate={least} must lie between 0 and "
                f"optim.learning_rate={rate}, where decay starts. Lower it, or raise the other."
            )
        yield from _outside(
            "optim.warmup_fraction", self.warmup_fraction, 0, 1, "it is a share of the steps"
        )
        yield from _outside("optim.beta1", self.beta1, 0, 1, "it is a decay rate")
        yield from _outside("optim.beta2", self.beta2, 0, 1, "it is a decay rate")
        for name in ("weight_decay", "clip_grad_norm"):
            yield from _too_small(f"optim.{name}", getattr(self, name), 0, "0 switches it off")
        if self.eps <= 0:
            yield f"optim.eps={self.eps} must be above 0: it keeps a quotient finite. Use 1e-8."
        yield from _too_small(
            "optim.initial_loss_scale", self.initial_loss_scale, 1, "it lifts small gradients"
        )


@dataclass(kw_only=True)
class ParallelConfig:
    """Degrees of each kind of parallelism; what is left of the world is data parallel."""

    tensor: int = 1
    pipeline: int = 1
    sequence: bool = False
    """Shard norms and residuals along the sequence inside a tensor-parallel group."""
    recompute: Recompute = Recompute.none
    """Of the decoder's layers."""
    recompute_tower: Recompute = Recompute.none
    """Of the vision tower's layers; matters only where the tower learns."""
    virtual_pipeline: int = 1
    """Model chunks on each pipeline stage (interleaved schedule); needs pipeline > 1."""
    first_stage_layers: int | None = None
    """Decoder layers on the first stage, which also holds tower and embedding; null: an equal share."""
    last_stage_layers: int | None = None
    """Decoder layers on the last stage, which also computes the loss; null: an equal share."""
    overlap_grad_reduce: bool = False
    """Reduce gradients over data-parallel ranks while the backward pass goes on."""
    overlap_param_gather: bool = False
    """Gather updated weights while the next forward pass goes on; needs the distributed optimizer."""
    backend: CommBackend = CommBackend.auto
    """auto: nccl where a GPU is, else gloo."""
    device: DeviceKind = DeviceKind.auto
    """auto: cuda where a GPU is, else cpu."""
    timeout_minutes: float = 10.0
    """A collective that waits longer ends the job."""

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        yield from _too_small("parallel.tensor", self.tensor, 1, "it counts ranks")
        yield from _too_small("parallel.pipeline", self.pipeline, 1, "it counts stages")
        yield from _too_small("parallel.virtual_pipeline", self.virtual_pipeline, 1, "it counts chunks")
        if self.virtual_pipeline > 1 and self.pipeline < 2:
            yield (
                f"parallel.virtual_pipeline={self.virtual_pipeline} interleaves pipeline stages, but "
                f"parallel.pipeline={self.pipeline}. Raise it, or set parallel.virtual_pipeline=1."
            )
        if self.overlap_param_gather and not self.overlap_grad_reduce:
            yield (
                "parallel.overlap_param_gather=true needs parallel.overlap_grad_reduce=true: both "
                "work on the same buckets. Set both."
            )
        if self.sequence and self.tensor < 2:
            yield (
                f"parallel.sequence=true shares rows inside a tensor-parallel group, but "
                f"parallel.tensor={self.tensor}. Raise it, or set parallel.sequence=false."
            )
        if self.backend == CommBackend.nccl and self.device == DeviceKind.cpu:
            yield (
                "parallel.backend=nccl moves GPU tensors only, but parallel.device=cpu. "
                "Use parallel.backend=gloo, or leave both at auto."
            )
        if self.timeout_minutes <= 0:
            yield (
                f"parallel.timeout_minutes={self.timeout_minutes} must be above 0. "
                f"Allow at least the slowest step, 10 by default."
            )


    def stages(self, num_layers: int) -> list[list[range]]:
        """Which decoder layers each pipeline stage holds, chunk by chunk.

        Returns:
            [stage][chunk], empty ranges where layers do not suffice; the caller checks that the
            layers divide.
        """
        sizes = [self.first_stage_layers, *([None] * (self.pipeline - 2)), self.last_stage_layers]
        sizes = sizes[: self.pipeline] if self.pipeline > 1 else [None]
        open_stages = sizes.count(None)
        left = num_layers - sum(size for size in sizes if size is not None)
        share = left // open_stages if open_stages else 0
        layers = [share if size is None else size for size in sizes]
        per_chunk = [count // self.virtual_pipeline for count in layers]
        held: list[list[range]] = [[] for _ in layers]
        start = 0
        for _ in range(self.virtual_pipeline):
            for stage, count in enumerate(per_chunk):
                held[stage].append(range(start, start + count))
                start += count
        return held


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

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        yield from _too_small("checkpoint.every_steps", self.every_steps, 1, "it counts steps")
        yield from _too_small("checkpoint.keep", self.keep, 0, "0 keeps all")


@dataclass(kw_only=True)
class LogConfig:
    """What a run says, and where."""

    every_steps: int = 1
    tensorboard: bool = False
    wandb: bool = False
    wandb_project: str = "owl3"
    wandb_mode: WandbMode = WandbMode.offline

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        yield from _too_small("log.every_steps", self.every_steps, 1, "it counts steps")


@dataclass(kw_only=True)
class Amount:
    """One scale of an experiment: steps, batch and budgets that belong together."""

    train_steps: int = 100
    samples_per_step: int = 32
    text_tokens: int = 768
    tiles: int = 16
    learning_rate: float | None = None
    min_learning_rate: float | None = None
    recompute: Recompute = Recompute.none


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

    def problems(self) -> Iterator[str]:
        """Yield the problems of every node, in the order the nodes are written here."""
        nodes = (self.model, self.data, self.pack, self.batch, self.stage)
        for node in (*nodes, self.optim, self.parallel, self.checkpoint, self.log):
            yield from node.problems()
