# SPDX-License-Identifier: Apache-2.0
"""A published Owl3 folder to a checkpoint that training starts from, in any layout.

Pieces of tensors are in memory, one a thread, so a 7B model converts on a laptop.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from owl.checkpoint.save import CARRIED, describe
from owl.checkpoint.state import TrainState
from owl.checkpoint.stream import write_weights
from owl.checkpoint.tensor_spec import TensorSpec
from owl.config.check import layout_problems
from owl.config.run import ModelConfig, ParallelConfig
from owl.convert.atomic_folder import check_free, whole_folder
from owl.convert.check import check_published, without_tied_copy
from owl.convert.progress import Progress
from owl.convert.reader import HfFolder
from owl.convert.rows import row_ranges, row_runs, runs_within
from owl.convert.safetensors_file import SafetensorsFile
from owl.convert.shapes import our_shape, published_shapes
from owl.errors import CheckpointError
from owl.families.owl3.published import Entry, carried_names, entries, is_carried
from owl.families.owl3.published_config import owl3_config

PIECE_BYTES = 16 * 2**20
"""Of a large weight at a time: little enough to stay in the processor's caches."""


def import_checkpoint(
    hf: Path,
    output: Path,
    *,
    name: str | None = None,
    layout: ParallelConfig | None = None,
    replace: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> ModelConfig:
    """Write a published folder as a checkpoint.

    Args:
        hf: config.json and safetensors files; tokenizer and code are not needed.
        output: checkpoint to write; nothing is there until it is whole.
        name: what to call the model; the folder's name when None.
        layout: one that has to be able to load it. What is written is the same for all.
        replace: whether an `output` that exists may go.
        report: gets lines about progress.

    Returns:
        The architecture, as stored in the checkpoint.

    Raises:
        CheckpointError: the folder is damaged, of another architecture, or does not fit the
            layout. Nothing is written.
    """
    check_free(output, replace=replace)
    folder = HfFolder(hf)
    model = owl3_config(folder.config, folder.names, name or hf.resolve().name)
    if layout is not None and (problems := layout_problems(model, layout)):
        raise CheckpointError(
            f"--tensor {layout.tensor} --pipeline {layout.pipeline} cannot train this model: "
            f"{' '.join(problems)}"
        )
    source = _PublishedWeights(folder, model, report)
    with whole_folder(output, replace=replace) as partial:
        write_weights(partial, source.specs, source.pieces)
        source.copy_carried(partial / CARRIED)
        describe(partial, model, TrainState())
    return model


class _PublishedWeights:
    """A published folder that reads like a checkpoint of ours."""

    def __init__(self, folder: HfFolder, model: ModelConfig, report: Callable[[str], None]) -> None:
        self._folder = folder
        published = without_tied_copy(folder, model, report)
        check_published(str(folder.folder), published, model, optional=carried_names(model))
        self._shapes = {name: spec.shape for name, spec in published.items()}
        self._entries = {entry.ours: entry for entry in entries(model)}
        self.specs = dict(_our_specs(self._entries, published, model))
        self._carried = {n: spec for n, spec in published.items() if is_carried(n, model)}
        total = sum(spec.nbytes for spec in published.values())
        self._progress = Progress("import", total, report)

    def pieces(self, ours: str) -> Iterator[tuple[int, Tensor]]:
        """Make one weight of ours out of the published tensors, piece by piece."""
        spec = self.specs[ours]
        runs = row_runs(self._entries[ours], self._shapes)
        for start, stop in row_ranges(spec, PIECE_BYTES):
            piece = torch.empty((stop - start, *spec.shape[1:]), dtype=spec.dtype)
            for run in runs_within(runs, start, stop):
                rows = piece[run.ours - start : run.ours - start + run.rows]
                self._folder.read_rows(run.published, run.first, rows)
            self._progress.advance(piece.nbytes)
            yield start, piece

    def copy_carried(self, path: Path) -> None:
        """Keep what influences no output for export; an empty file says that there is none."""
        file = SafetensorsFile(path, self._carried)
        for name, spec in self._carried.items():
            file.write(name, self._folder.read(name))
            self._progress.advance(spec.nbytes)
        file.close()


def _our_specs(
    table: Mapping[str, Entry], published: Mapping[str, TensorSpec], model: ModelConfig
) -> Iterator[tuple[str, TensorSpec]]:
    """Yield name, shape and dtype of each weight of ours."""
    shapes = published_shapes(model)
    for ours, entry in table.items():
        dtypes = {name: published[name].dtype for name in entry.published}
        if len(set(dtypes.values())) > 1:
            raise CheckpointError(
                f"{ours} is one tensor here, but its parts have different dtypes: {dtypes}. Save "
                f"the folder again with one dtype."
            )
        yield ours, TensorSpec(our_shape(entry, shapes), next(iter(dtypes.values())))
