# SPDX-License-Identifier: Apache-2.0
"""Checks that span nodes: TP divides the heads, no stage is empty, the batch can be divided.

Plain Python on a RunConfig, so that a mistake is reported before anything large is imported.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from owl.config.run import (
    AttentionKind,
    DeviceKind,
    LayerBackend,
    ModelConfig,
    ParallelConfig,
    Precision,
    RunConfig,
    ScaleKind,
    VisionParallelism,
)
from owl.errors import ConfigError

DEMO_MODEL = "{family}_tiny"
"""The model of a family whose start weights the embedded demo makes."""


def check_run(run: RunConfig, world_size: int) -> None:
    """Raise one ConfigError with every problem of a run's settings.

    Raises:
        ConfigError: something in the run cannot work.
    """
    problems = run_problems(run, world_size)
    if problems:
        raise ConfigError(problems)


def run_problems(run: RunConfig, world_size: int) -> list[str]:
    """List the problems of a run's settings: node by node, then across nodes.

    Args:
        run: the composed run.
        world_size: processes that torchrun started (1 without it).
    """
    return [
        *run.problems(),
        *_tensor_parallel_problems(run),
        *_pipeline_problems(run),
        *_world_problems(run, world_size),
        *_batch_problems(run, world_size),
        *_attention_problems(run),
        *_training_problems(run),
        *_start_problems(run),
        *_package_problems(run),
    ]


def layout_problems(model: ModelConfig, parallel: ParallelConfig) -> list[str]:
    """List why a model cannot be trained in a layout, whatever the other settings are."""
    run = RunConfig(model=model, parallel=parallel)
    return [*parallel.problems(), *_tensor_parallel_problems(run), *_pipeline_problems(run)]


def _divided_by_tensor(run: RunConfig) -> dict[str, int]:
    """Sizes that tensor parallelism divides; the vocabulary is padded and may be any size."""
    model, tower = run.model, run.model.vision_tower
    shared = {
        "model.num_attention_heads": model.num_attention_heads,
        "model.num_kv_heads": model.num_kv_heads,
        "model.ffn_hidden_size": model.ffn_hidden_size,
    }
    if tower.parallelism is VisionParallelism.tensor:
        shared["model.vision_tower.num_attention_heads"] = tower.num_attention_heads
        shared["model.vision_tower.ffn_hidden_size"] = tower.ffn_hidden_size
    return shared


def _tensor_parallel_problems(run: RunConfig) -> Iterator[str]:
    tensor, shared = run.parallel.tensor, _divided_by_tensor(run)
    if tensor < 1:
        return
    broken = [f"{name}={size}" for name, size in shared.items() if size % tensor]
    if broken:
        least = min(shared.values())
        legal = [n for n in range(1, least + 1) if all(size % n == 0 for size in shared.values())]
        yield (
            f"parallel.tensor={tensor} does not divide {', '.join(broken)}. Use {_either(legal)}."
        )


def _pipeline_problems(run: RunConfig) -> Iterator[str]:
    parallel, layers = run.parallel, run.model.num_layers
    stages, chunks = parallel.pipeline, parallel.virtual_pipeline
    if stages < 1 or chunks < 1 or (stages == 1 and chunks == 1):
        return
    held = parallel.stages(layers)
    placed = sum(len(chunk) for stage in held for chunk in stage)
    if placed != layers or not all(chunk for stage in held for chunk in stage):
        uneven = ""
        if parallel.first_stage_layers is not None or parallel.last_stage_layers is not None:
            uneven = (
                f", parallel.first_stage_layers={parallel.first_stage_layers} and "
                f"parallel.last_stage_layers={parallel.last_stage_layers}"
            )
        legal = [n for n in range(1, layers + 1) if layers % n == 0]
        yield (
            f"parallel.pipeline={stages} x parallel.virtual_pipeline={chunks}{uneven} do not "
            f"divide model.num_layers={layers} into equal chunks of at least one layer. "
            f"Use {_either(legal)} chunks in all, or set parallel.first_stage_layers and "
            f"parallel.last_stage_layers."
        )


def _world_problems(run: RunConfig, world_size: int) -> Iterator[str]:
    tensor, pipeline = run.parallel.tensor, run.parallel.pipeline
    reported = [*_tensor_parallel_problems(run), *_pipeline_problems(run)]
    ranks = tensor * pipeline
    if ranks < 1 or reported or world_size % ranks == 0:
        return
    if run.dry_run and world_size == 1:
        return  # a plan for many ranks can be made on one
    yield (
        f"parallel.tensor={tensor} x parallel.pipeline={pipeline} = {ranks} ranks do not divide "
        f"the {world_size} process(es) started. Start with torchrun --nproc-per-node {ranks} (or a "
        f"multiple), or use parallel=one."
    )


def _batch_problems(run: RunConfig, world_size: int) -> Iterator[str]:
    """Every rank runs the same number of complete micro-batches."""
    name, size = _global_batch(run)
    ranks, micro = run.parallel.tensor * run.parallel.pipeline, run.batch.micro_batch_size
    if size is None or size < 1 or ranks < 1 or micro < 1:
        return
    data_parallel = max(1, world_size // ranks)
    unit = micro * data_parallel
    if run.parallel.virtual_pipeline > 1 and size // unit % run.parallel.pipeline:
        yield (
            f"{name}={size} gives {size // unit} micro-batches, but the interleaved schedule takes "
            f"them in groups of parallel.pipeline={run.parallel.pipeline}. Use a multiple of "
            f"{unit * run.parallel.pipeline}."
        )
    if size % unit == 0:
        return
    below, above = size // unit * unit, -(-size // unit) * unit
    yield (
        f"{name}={size} is not a multiple of batch.micro_batch_size={micro} x data-parallel "
        f"size {data_parallel} = {unit}. Use {_either([n for n in (below, above) if n])}."
    )


def _global_batch(run: RunConfig) -> tuple[str, int | None]:
    """Return the setting that fixes the global batch, and its value; None if packing chooses it."""
    if run.batch.global_batch_size is not None:
        return "batch.global_batch_size", run.batch.global_batch_size
    if run.pack.enabled:
        return "batch.samples_per_step", None
    return "batch.samples_per_step", run.batch.samples_per_step


def _attention_problems(run: RunConfig) -> Iterator[str]:
    """FlexAttention has no backward pass on a CPU, and no float64 kernels."""
    if run.model.attention is not AttentionKind.flex:
        return
    if not _on_gpu(run) and not run.dry_run:
        yield (
            f"model.attention=flex needs a GPU, but parallel.device={run.parallel.device} is "
            f"the CPU here. Use model.attention=per_sample or lse_merge."
        )
    if run.precision is Precision.fp64:
        yield (
            "model.attention=flex has no kernel for precision=fp64. "
            "Use model.attention=per_sample or reference."
        )


def _on_gpu(run: RunConfig) -> bool:
    if run.parallel.device is DeviceKind.auto:
        import torch  # imported late: it takes a second

        return torch.cuda.is_available()
    return run.parallel.device is DeviceKind.cuda


def _training_problems(run: RunConfig) -> Iterator[str]:
    parts = vars(run.stage.trainable)
    if not any(parts.values()) and not run.lora.is_on:
        yield (
            f"stage.trainable has every part frozen ({', '.join(parts)}), and there are no "
            f"adapters. Switch at least one on, such as stage.trainable.projector=true, or choose "
            f"lora=all."
        )


def _start_problems(run: RunConfig) -> Iterator[str]:
    """Frozen parts need start weights, and the demo's fit one model only."""
    start, frozen = run.checkpoint.start_from, run.trained_parts.frozen
    demo_model = DEMO_MODEL.format(family=run.model.family)
    if start is None:
        if run.scale == ScaleKind.published and frozen and not run.dry_run:
            yield (
                f"checkpoint.start_from=null, but the run freezes {', '.join(frozen)}, which would "
                f"stay random. Name a checkpoint, such as one made by `python -m owl.convert init`."
            )
    elif not run.data.demo:
        if not Path(start).exists():
            yield (
                f"checkpoint.start_from={start} does not exist. Name a checkpoint or a run folder, "
                f"or make one with `python -m owl.convert init`."
            )
    elif run.data.is_made_by_demo(start) and run.model.name != demo_model and not run.dry_run:
        yield (
            f"checkpoint.start_from={start} is the demo's, made for model={demo_model}, but "
            f"model.name={run.model.name}. Set data= and checkpoint.start_from= to your own."
        )


def _package_problems(run: RunConfig) -> Iterator[str]:
    wanted = {
        "transformer_engine": (
            run.model.layer_backend == LayerBackend.transformer_engine,
            "model.layer_backend=transformer_engine",
            "pip install -e '.[gpu]', or use model.layer_backend=local",
        ),
        "tensorboard": (
            run.log.tensorboard,
            "log.tensorboard=true",
            "pip install -e '.[logging]', or set it to false",
        ),
        "wandb": (
            run.log.wandb,
            "log.wandb=true",
            "pip install -e '.[logging]', or set it to false",
        ),
    }
    for package, (asked, setting, advice) in wanted.items():
        if asked and importlib.util.find_spec(package) is None:
            yield f"{setting} needs the package {package}, which is not installed. Run {advice}."


def _either(numbers: list[int]) -> str:
    """Format a choice of numbers: "1, 2 or 4"."""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
