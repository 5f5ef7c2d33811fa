# SPDX-License-Identifier: Apache-2.0
"""The training nodes: trained parts, optimizer, layout, checkpoints, logs."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from owl.config.choices import CommBackend, DeviceKind, LrDecay, Recompute, WandbMode
from owl.config.rules import outside, too_small


@dataclass(kw_only=True)
class Trainable:
    """Which parts are trained."""

    vision_tower: bool = False
    projector: bool = True
    language_model: bool = False
    fusion: bool = True
    """Media key-value projections and gates of the hyper layers."""

    @property
    def frozen(self) -> list[str]:
        """Names of the parts that are not trained."""
        return [name for name, learns in vars(self).items() if not learns]


@dataclass(kw_only=True)
class StageConfig:
    """What is trained and how: `+experiment=` picks one."""

    name: str = "pretrain"
    trainable: Trainable = field(default_factory=Trainable)
    train_steps: int = 100

    def problems(self) -> Iterator[str]:
        """Yield one problem for each setting that cannot work."""
        yield from too_small("stage.train_steps", self.train_steps, 1, "it counts optimizer steps")


@dataclass(kw_only=True)
class PartRates:
    """Peak learning rate of each part; null: optim.learning_rate. Warm-up and decay keep shape."""

    vision_tower: float | None = None
    projector: float | None = None
    language_model: float | None = None
    fusion: float | None = None

    def problems(self) -> Iterator[str]:
        """Yield one problem for each setting that cannot work."""
        for part, rate in vars(self).items():
            if rate is not None and rate <= 0:
                yield (
                    f"optim.rates.{part}={rate} must be above 0. To freeze the part, set "
                    f"stage.trainable.{part}=false; for optim.learning_rate, set null."
                )


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW through Megatron's (distributed) optimizer."""

    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-5
    rates: PartRates = field(default_factory=PartRates)
    tower_layer_decay: float = 1.0
    """Rate of a vision tower's layer relative to the layer above; the last one has the tower's
    rate, embeddings count as the layer below the first. mPLUG-Owl2: 0.9."""
    warmup_fraction: float = 0.03
    decay: LrDecay = LrDecay.cosine
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_grad_norm: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""
    distributed: bool = True
    """Shard optimizer state over the data-parallel ranks (ZeRO-1)."""
    initial_loss_scale: float = 65536.0
    """fp16 only: where the dynamic loss scale starts."""

    def peak(self, part: str) -> float:
        """Return the peak rate of a part of the model; of the tower, that of its last layer."""
        rate: float | None = getattr(self.rates, part)
        return self.learning_rate if rate is None else rate

    def problems(self) -> Iterator[str]:
        """Yield one problem for each setting that cannot work."""
        rate, least = self.learning_rate, self.min_learning_rate
        if rate <= 0:
            yield f"optim.learning_rate={rate} must be above 0. Published stages use 1e-3 and 2e-5."
        if not 0 <= least <= rate:
            yield (
                f"optim.min_learning_rate={least} must be between 0 and "
                f"optim.learning_rate={rate}, where decay starts. Lower it, or raise the other."
            )
        yield from self.rates.problems()
        if not 0 < self.tower_layer_decay <= 1:
            yield (
                f"optim.tower_layer_decay={self.tower_layer_decay} is outside 0 < value <= 1: it "
                f"multiplies the rate layer by layer. mPLUG-Owl2 uses 0.9; 1 switches it off."
            )
        yield from outside(
            "optim.warmup_fraction", self.warmup_fraction, 0, 1, "it is a share of the steps"
        )
        yield from outside("optim.beta1", self.beta1, 0, 1, "it is a decay rate")
        yield from outside("optim.beta2", self.beta2, 0, 1, "it is a decay rate")
        for name in ("weight_decay", "clip_grad_norm"):
            yield from too_small(f"optim.{name}", getattr(self, name), 0, "0 switches it off")
        if self.eps <= 0:
            yield f"optim.eps={self.eps} must be above 0: it keeps a quotient finite. Use 1e-8."
        yield from too_small(
            "optim.initial_loss_scale", self.initial_loss_scale, 1, "it scales small gradients up"
        )


@dataclass(kw_only=True)
class ParallelConfig:
    """Degrees of each kind of parallelism; the remaining ranks are data parallel."""

    tensor: int = 1
    pipeline: int = 1
    sequence: bool = False
    """Shard norms and residuals along the sequence inside a tensor-parallel group."""
    recompute: Recompute = Recompute.none
    """Recomputation in the decoder's layers."""
    recompute_tower: Recompute = Recompute.none
    """Recomputation in the vision tower's layers; used only when the tower is trained."""
    virtual_pipeline: int = 1
    """Model chunks on each pipeline stage (interleaved schedule); needs pipeline > 1."""
    first_stage_layers: int | None = None
    """Decoder layers on the first stage, which also has tower and embedding; null: equal share."""
    last_stage_layers: int | None = None
    """Decoder layers on the last stage, which also computes the loss; null: an equal share."""
    overlap_grad_reduce: bool = False
    """Reduce gradients over data-parallel ranks during the backward pass."""
    overlap_param_gather: bool = False
    """Gather updated weights during the next forward pass; needs optim.distributed."""
    backend: CommBackend = CommBackend.auto
    """auto: nccl with a GPU, else gloo."""
    device: DeviceKind = DeviceKind.auto
    """auto: cuda with a GPU, else cpu."""
    timeout_minutes: float = 10.0
    """A collective that takes longer ends the job."""

    def problems(self) -> Iterator[str]:
        """Yield one problem for each setting that cannot work."""
        yield from too_small("parallel.tensor", self.tensor, 1, "it counts ranks")
        yield from too_small("parallel.pipeline", self.pipeline, 1, "it counts stages")
        chunks = self.virtual_pipeline
        yield from too_small("parallel.virtual_pipeline", chunks, 1, "it counts chunks")
        if chunks > 1 and self.pipeline < 2:
            yield (
                f"parallel.virtual_pipeline={chunks} interleaves pipeline stages, but "
                f"parallel.pipeline={self.pipeline}. Raise it, or set parallel.virtual_pipeline=1."
            )
        if self.overlap_param_gather and not self.overlap_grad_reduce:
            yield (
                "parallel.overlap_param_gather=true needs parallel.overlap_grad_reduce=true: both "
                "use the same buckets. Set both."
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
        """Return the decoder layers of each pipeline stage, chunk by chunk.

        Returns:
            [stage][chunk], empty ranges where there are too few layers; the caller checks that the
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
    """What is saved, and where training starts."""

    start_from: str | None = None
    """Checkpoint or run folder whose weights training starts from; optimizer and data start new."""
    every_steps: int = 100
    keep: int = 3
    """Newest checkpoints that are kept; 0 keeps all."""
    resume: bool = True
    """Resume from the newest checkpoint in the run folder, if there is one."""

    def problems(self) -> Iterator[str]:
        """Yield one problem for each setting that cannot work."""
        yield from too_small("checkpoint.every_steps", self.every_steps, 1, "it counts steps")
        yield from too_small("checkpoint.keep", self.keep, 0, "0 keeps all")


@dataclass(kw_only=True)
class LogConfig:
    """What is logged, and where."""

    every_steps: int = 1
    device_peak_tflops: float | None = None
    """Dense bf16 peak of one device, the denominator of MFU; null: known for common GPUs."""
    tensorboard: bool = False
    wandb: bool = False
    wandb_project: str = "owl3"
    wandb_mode: WandbMode = WandbMode.offline

    def problems(self) -> Iterator[str]:
        """Yield one problem for each setting that cannot work."""
        yield from too_small("log.every_steps", self.every_steps, 1, "it counts steps")
        peak = self.device_peak_tflops
        if peak is not None and peak <= 0:
            yield (
                f"log.device_peak_tflops={peak} must be above 0: MFU is a share of it. Use the "
                f"data sheet's dense bf16 number, or null to leave MFU out."
            )
