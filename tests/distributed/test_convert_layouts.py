# SPDX-License-Identifier: Apache-2.0
"""Published bytes survive any layout: imported once, saved again by real processes, exported."""

from pathlib import Path

import pytest

from owl.checkpoint.content import weight_shards
from owl.checkpoint.load import load_model_config, load_weights
from owl.checkpoint.save import CARRIED, write_checkpoint
from owl.checkpoint.state import TrainState
from owl.checkpoint.stream import CheckpointTensors
from owl.config.run import DeviceKind, ParallelConfig, Precision
from owl.convert.from_hf import import_checkpoint
from owl.convert.to_hf import export_checkpoint
from owl.mcore.launch import run_in_processes
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model
from tests.published import (
    VARIANTS,
    VOCABULARY,
    assert_same_bytes,
    published_config,
    random_weights,
    read_weights,
    small_config,
    write_published,
)

EMBEDDING = "embedding.word_embeddings.weight"


def save_again(folders: list[tuple[Path, Path]], tensor: int, pipeline: int) -> None:
    """Load checkpoints in a layout and save them from there, as a training run does.

    Several at once: starting processes takes longer than all the rest.
    """
    parallel = ParallelConfig(
        tensor=tensor, pipeline=pipeline, device=DeviceKind.cpu, timeout_minutes=5
    )
    with process_groups(parallel) as groups:
        for start, output in folders:
            model = load_model_config(start)
            chunks = build_model(model, parallel, Precision.bf16, groups)
            load_weights(start, chunks, model, groups)
            content = weight_shards(chunks, groups)
            carried = start / CARRIED
            write_checkpoint(output, content, model, TrainState(), groups, carried=carried)


def through(starts: list[Path], tensor: int, pipeline: int) -> list[Path]:
    """Save checkpoints again in another layout."""
    outputs = [start.with_name(f"{start.name}-tp{tensor}-pp{pipeline}") for start in starts]
    folders = list(zip(starts, outputs, strict=True))
    run_in_processes(save_again, tensor * pipeline, folders, tensor, pipeline)
    return outputs


def start_from(folder: Path, variant: str, config: dict) -> Path:
    """Import random published weights."""
    hf = write_published(folder / f"hf-{variant}", variant, config=config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("owl.convert.from_hf.PIECE_BYTES", 1000)  # so that weights lie in several
        import_checkpoint(hf, folder / variant)
    return folder / variant


def assert_exports_as_published(checkpoint: Path, variant: str, config: dict) -> None:
    output = checkpoint.with_name(f"{checkpoint.name}-exported")
    export_checkpoint(checkpoint, output)
    assert_same_bytes(read_weights(output), random_weights(variant, config))


def test_two_tensor_ranks_and_then_two_stages_give_the_published_bytes_back(tmp_path):
    configs = {variant: small_config(variant) for variant in VARIANTS}
    starts = [start_from(tmp_path, variant, config) for variant, config in configs.items()]

    outputs = through(starts, tensor=2, pipeline=1)

    for output, (variant, config) in zip(outputs, configs.items(), strict=True):
        # The odd vocabulary was padded to be shared, so the export has something to take off.
        assert CheckpointTensors(output).specs[EMBEDDING].shape[0] == VOCABULARY + 1
        assert_exports_as_published(output, variant, config)

    # A layout that loads what another one saved.
    outputs = through(outputs, tensor=1, pipeline=2)

    for output, (variant, config) in zip(outputs, configs.items(), strict=True):
        assert_exports_as_published(output, variant, config)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_layout_after_another_gives_the_published_bytes_back(tmp_path):
    """TP {1, 2, 4} x PP {1, 2}, each loading what another layout saved, on the true structure."""
    configs = {variant: published_config(variant) for variant in VARIANTS}
    saved = [start_from(tmp_path, variant, config) for variant, config in configs.items()]

    for tensor, pipeline in [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (4, 2)]:
        saved = through(saved, tensor, pipeline)
        for output, (variant, config) in zip(saved, configs.items(), strict=True):
            assert_exports_as_published(output, variant, config)
