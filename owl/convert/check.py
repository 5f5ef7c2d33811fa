# SPDX-License-Identifier: Apache-2.0
"""Check that the tensors of a folder or a checkpoint are those that the architecture requires."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from owl.checkpoint.tensor_spec import TensorSpec
from owl.config.run import ModelConfig
from owl.convert.families import Published, family_of_folder, weight_table
from owl.convert.files.reader import HfFolder
from owl.convert.tables.table import Shape, WeightTable
from owl.errors import CheckpointError

_SHOWN = 20
_EMBEDDING, _OUTPUT_LAYER = "embedding.word_embeddings.weight", "output_layer.weight"


@dataclass(frozen=True)
class PublishedFolder:
    """A Hugging Face folder whose tensors fit its architecture."""

    folder: HfFolder
    family: Published
    model: ModelConfig
    table: WeightTable
    specs: Mapping[str, TensorSpec]  # of the folder, without a copy of a tied embedding


def check_folder(
    path: Path, name: str | None = None, report: Callable[[str], None] = lambda line: None
) -> PublishedFolder:
    """Open a Hugging Face folder and check it, from its headers.

    Reads no tensor but a copy of a tied embedding, to compare them. transformers would fill a
    missing tensor with random numbers, and only log it.

    Args:
        path: the folder.
        name: name for the model; the folder's name when None.
        report: receives a line where a copy of the embedding is ignored.

    Raises:
        CheckpointError: the folder is damaged or of an unknown family, or a tensor is missing,
            unexpected or misshapen.
    """
    folder = HfFolder(path)
    family = family_of_folder(folder.config, folder.specs, path)
    model = family.read_config(folder.config, folder.specs, name or path.resolve().name)
    table, specs = weight_table(family, model), _without_tied_copy(folder, family, model, report)
    partners = {name: entry.ours for entry in table.entries for name in entry.published}
    found = {name: spec.shape for name, spec in specs.items()}
    problems = _problems(found, table.shapes, partners, optional=table.carried)
    _raise(str(path), problems, "config.json")
    return PublishedFolder(folder, family, model, table, specs)


def _without_tied_copy(
    folder: HfFolder, family: Published, model: ModelConfig, report: Callable[[str], None]
) -> dict[str, TensorSpec]:
    """Drop an output layer that repeats the embedding it is tied to: some programs save both."""
    specs = dict(folder.specs)
    untied = replace(model, tie_word_embeddings=False)
    names = {entry.ours: entry.published[0] for entry in family.entries(untied)}
    head, embedding = names[_OUTPUT_LAYER], names[_EMBEDDING]
    if not model.tie_word_embeddings or head not in specs or embedding not in specs:
        return specs
    if not torch.equal(folder.read(head), folder.read(embedding)):
        raise CheckpointError(
            f"{folder.folder}: config.json has tie_word_embeddings=true, but {head} differs from "
            f"{embedding}. Set it to false to keep both."
        )
    report(f"{head} repeats {embedding} and is stored once")
    del specs[head]
    return specs


def check_ours(where: str, specs: Mapping[str, TensorSpec], table: WeightTable) -> None:
    """Raise CheckpointError naming every weight of a checkpoint that does not fit its model.json.

    Padding rows of the vocabulary are allowed.
    """
    wanted = {entry.ours: entry.our_shape for entry in table.entries}
    partners = {entry.ours: ", ".join(entry.published) for entry in table.entries}
    found = {name: spec.shape for name, spec in specs.items()}
    for name in (_EMBEDDING, _OUTPUT_LAYER):
        if name in found and found[name][1:] == wanted.get(name, ())[1:]:
            found[name] = (min(found[name][0], wanted[name][0]), *found[name][1:])
    _raise(where, _problems(found, wanted, partners, optional={}), "model.json")


def _problems(
    found: Mapping[str, Shape],
    wanted: Mapping[str, Shape],
    partners: Mapping[str, str],
    *,
    optional: Mapping[str, Shape],
) -> list[str]:
    """Return a line for each tensor that is not as wanted, with its name on the other side.

    Args:
        found: name to shape.
        wanted: name to shape.
        partners: name to the name on the other side of the conversion.
        optional: tensors that may be missing.
    """
    problems = []
    for name, shape in wanted.items():
        other = partners.get(name, "carried along for export")
        if name not in found:
            if name not in optional:
                problems.append(f"{name} ({other}) is missing; its shape would be {shape}")
        elif found[name] != shape:
            problems.append(f"{name} ({other}) has shape {found[name]}, not {shape}")
    unexpected = [name for name in found if name not in wanted]
    return problems + [f"{name} {found[name]} belongs to no weight" for name in unexpected]


def _raise(where: str, problems: list[str], source: str) -> None:
    if not problems:
        return
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    raise CheckpointError(
        f"{where} does not contain the tensors that its {source} describes (in brackets: the name "
        f"on the other side of the conversion):\n  "
        + "\n  ".join([*problems[:_SHOWN], *more])
        + f"\nComplete the folder, or correct {source}."
    )
