# SPDX-License-Identifier: Apache-2.0
"""Build a starting checkpoint from a pretrained language model and a pretrained vision model.

The family decides which weights come from where. Weights that neither folder has keep the values
that the model initialises them with.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from owl.checkpoint.content import weight_shards
from owl.checkpoint.save import CARRIED, write_checkpoint
from owl.checkpoint.state import TrainState
from owl.config.run import DeviceKind, ModelConfig, ParallelConfig, Precision
from owl.convert.families import family_of_variant, weight_table
from owl.convert.files.reader import HfFolder
from owl.convert.start import InitOptions, Start
from owl.convert.tables.table import WeightTable
from owl.mcore.parameters import global_names, load_full
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model

_PRECISIONS = {
    torch.float32: Precision.fp32,
    torch.bfloat16: Precision.bf16,
    torch.float16: Precision.fp16,
}


def init_checkpoint(
    language_model: Path,
    vision_model: Path,
    output: Path,
    options: InitOptions,
    report: Callable[[str], None] = lambda line: None,
) -> ModelConfig:
    """Write a checkpoint that training can start from.

    Args:
        language_model: folder of a language model, as transformers saves it: Qwen2, Qwen2.5 or
            LLaMA, as the family has it.
        vision_model: folder of a vision model: SigLIP or CLIP.
        output: folder to write; replaced when it exists.
        options: variant and other choices.
        report: receives a line as each part is done.

    Returns:
        The architecture, as stored in the checkpoint.

    Raises:
        CheckpointError: the folders do not make a model of the variant.
    """
    family = family_of_variant(options.variant)
    start = family.start(HfFolder(language_model), HfFolder(vision_model), options)
    model, table = start.model, weight_table(family, start.model)
    parallel = ParallelConfig(device=DeviceKind.cpu)
    precision = _PRECISIONS[_embedding(start, table).dtype]
    with process_groups(parallel, seed=options.seed, alone=True) as groups:
        torch.manual_seed(options.seed)
        chunks = build_model(model, parallel, precision, groups)
        initialised = load_full(chunks, _weights(start, table, report))
        report(f"initialised here: {', '.join(initialised)}")
        unexpected = [name for name in initialised if not start.is_random(name)]
        assert not unexpected, f"no source for {unexpected}: the family's table lacks a row"
        carried = _save_carried(start, table, output)
        write_checkpoint(
            output, weight_shards(chunks, groups), model, TrainState(), groups, carried=carried
        )
        if carried is not None:
            carried.unlink()
        parameters = sum(p.numel() for _, p in global_names(chunks))
    report(f"{output}: {parameters:,} parameters")
    return model


def _embedding(start: Start, table: WeightTable) -> Tensor:
    """Read the embedding, whose number format the checkpoint gets."""
    names = {entry.ours: entry.published[0] for entry in table.entries}
    return start.read(names["embedding.word_embeddings.weight"])


def _weights(
    start: Start, table: WeightTable, report: Callable[[str], None]
) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight that the folders provide, under our name."""
    part = ""
    for entry in table.entries:
        if start.is_random(entry.ours):
            continue
        if (now := entry.ours.split(".")[0]) != part:
            part = now
            report(f"reading {part}")
        yield entry.ours, entry.to_ours(tuple(start.read(name) for name in entry.published))


def _save_carried(start: Start, table: WeightTable, output: Path) -> Path | None:
    """Write the tensors that influence no output beside `output`; None if there are none."""
    carried = {name: start.read(name) for name in table.carried if start.has(name)}
    if not carried:
        return None
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_name(f"{output.name}.{CARRIED}")
    save_file(carried, path)
    return path
