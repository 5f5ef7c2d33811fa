# SPDX-License-Identifier: Apache-2.0
"""A published folder to a checkpoint that training starts from, in any layout.

Tensors are in memory piece by piece, so a 7B model converts on a laptop.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from owl.checkpoint.save import CARRIED, describe
from owl.checkpoint.state import TrainState
from owl.checkpoint.stream import write_weights
from owl.checkpoint.tensor_spec import TensorSpec
from owl.config.check import layout_problems
from owl.config.run import ModelConfig, ParallelConfig
from owl.convert.adapters import read_adapter
from owl.convert.check import PublishedFolder, check_folder
from owl.convert.files.atomic_folder import atomic_folder, check_free
from owl.convert.files.safetensors_file import SafetensorsFile
from owl.convert.tables.rows import row_ranges, row_spans, spans_within
from owl.convert.tables.table import WeightTable
from owl.errors import CheckpointError
from owl.progress import Progress

PIECE_BYTES = 16 * 2**20
"""Of a large weight at a time: few enough to stay in the processor's caches."""


def import_checkpoint(
    hf: Path,
    output: Path,
    *,
    name: str | None = None,
    layout: ParallelConfig | None = None,
    adapter: Path | None = None,
    replace: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> ModelConfig:
    """Write a published folder as a checkpoint.

    Args:
        hf: folder with config.json and safetensors files; tokenizer and code are not needed.
        output: checkpoint to write; it appears when it is complete.
        name: name for the model; the folder's name when None.
        layout: one that must be able to load the checkpoint, which is the same for all.
        adapter: a folder of peft; the checkpoint gets its adapters, beside the weights.
        replace: whether an existing `output` may be deleted.
        report: receives lines about progress.

    Returns:
        The architecture, as stored in the checkpoint.

    Raises:
        CheckpointError: the folder is damaged, of an unknown family, or does not fit the layout or
            the adapter. Nothing is written.
    """
    check_free(output, replace=replace)
    published = check_folder(hf, name, report)
    model = published.model
    if layout is not None and (problems := layout_problems(model, layout)):
        raise CheckpointError(
            f"--tensor {layout.tensor} --pipeline {layout.pipeline} cannot train this model: "
            f"{' '.join(problems)}"
        )
    lora, adapters = None, dict[str, Tensor]()
    if adapter is not None:
        lora, adapters = read_adapter(adapter, published.table, report)
    source = _PublishedWeights(published, report)
    specs = {name: TensorSpec(tuple(t.shape), t.dtype) for name, t in adapters.items()}

    def pieces(name: str) -> Iterable[tuple[int, Tensor]]:
        return [(0, adapters[name])] if name in adapters else source.pieces(name)

    with atomic_folder(output, replace=replace) as partial:
        write_weights(partial, source.specs | specs, pieces)
        source.copy_carried(partial / CARRIED)
        describe(partial, model, TrainState(), lora=lora)
    return model


class _PublishedWeights:
    """A published folder that reads like a checkpoint.

    Args:
        published: the folder.
        report: receives lines about progress.

    Raises:
        CheckpointError: tensors that are merged have different dtypes.
    """

    def __init__(self, published: PublishedFolder, report: Callable[[str], None]) -> None:
        self._folder, table, specs = published.folder, published.table, published.specs
        self._entries = {entry.ours: entry for entry in table.entries}
        self.specs = dict(_our_specs(table, specs))
        """Name to shape and dtype of each training weight."""
        self._carried = {n: spec for n, spec in specs.items() if n in table.carried}
        total = sum(spec.nbytes for spec in specs.values())
        self._progress = Progress("import", total, report)

    def pieces(self, ours: str) -> Iterator[tuple[int, Tensor]]:
        """Make one training weight out of the published tensors, piece by piece.

        Yields:
            Number of the first row, and rows.
        """
        spec = self.specs[ours]
        spans = row_spans(self._entries[ours])
        for start, stop in row_ranges(spec, PIECE_BYTES):
            piece = torch.empty((stop - start, *spec.shape[1:]), dtype=spec.dtype)
            for span in spans_within(spans, start, stop):
                rows = piece[span.ours - start : span.ours - start + span.rows]
                self._folder.read_rows(span.published, span.first, rows)
            self._progress.advance(piece.nbytes)
            yield start, piece

    def copy_carried(self, path: Path) -> None:
        """Keep for export what influences no output; an empty file if there is nothing."""
        file = SafetensorsFile(path, self._carried)
        for name, spec in self._carried.items():
            file.write(name, self._folder.read(name))
            self._progress.advance(spec.nbytes)
        file.close()


def _our_specs(
    table: WeightTable, published: Mapping[str, TensorSpec]
) -> Iterator[tuple[str, TensorSpec]]:
    """Yield name, shape and dtype of each training weight."""
    for entry in table.entries:
        dtypes = {name: published[name].dtype for name in entry.published}
        if len(set(dtypes.values())) > 1:
            raise CheckpointError(
                f"{entry.ours} is one tensor here, but its parts have different dtypes: {dtypes}. "
                f"Save the folder again with one dtype."
            )
        yield entry.ours, TensorSpec(entry.our_shape, next(iter(dtypes.values())))
