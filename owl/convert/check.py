# SPDX-License-Identifier: Apache-2.0
"""Whether the tensors of a folder or checkpoint are those that the architecture asks for."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from owl.checkpoint.tensor_spec import TensorSpec
from owl.config.run import ModelConfig
from owl.convert.reader import HfFolder
from owl.convert.shapes import our_shape, published_shapes
from owl.errors import CheckpointError
from owl.families.owl3.published import carried_names, entries
from owl.families.owl3.published_config import owl3_config

LM_HEAD = "language_model.lm_head.weight"
EMBEDDING = "language_model.model.embed_tokens.weight"
_SHOWN = 20
# The rows of these are padded to what a tensor-parallel layout can share.
VOCABULARY_WEIGHTS = ("embedding.word_embeddings.weight", "output_layer.weight")


def check_published(
    where: str, specs: Mapping[str, TensorSpec], model: ModelConfig, *, optional: Iterable[str]
) -> None:
    """Raise CheckpointError naming every published tensor that is missing, too many or misshapen.

    Args:
        where: what is checked, for the message.
        specs: the tensors that are there.
        model: what they have to fit.
        optional: names that may be missing.
    """
    partners = {name: entry.ours for entry in entries(model) for name in entry.published}
    problems = _problems(
        {name: spec.shape for name, spec in specs.items()},
        published_shapes(model),
        partners,
        optional=frozenset(optional),
    )
    _raise(where, problems, "config.json")


def check_folder(path: Path) -> None:
    """Raise CheckpointError for a folder that is no whole Owl3, from its headers.

    Only a copy of a tied embedding is read, to see that it is one. transformers would fill a tensor
    that is missing with random numbers, and say so in a log.
    """
    folder = HfFolder(path)
    model = owl3_config(folder.config, folder.names, path.resolve().name)
    specs = without_tied_copy(folder, model)
    check_published(str(path), specs, model, optional=carried_names(model))


def without_tied_copy(
    folder: HfFolder, model: ModelConfig, report: Callable[[str], None] = lambda line: None
) -> dict[str, TensorSpec]:
    """Drop an output layer that repeats the embedding it is tied to, as some savers write it.

    Raises:
        CheckpointError: config.json says that the two are tied, and they differ.
    """
    specs = dict(folder.specs)
    if not model.tie_word_embeddings or LM_HEAD not in specs or EMBEDDING not in specs:
        return specs
    if not torch.equal(folder.read(LM_HEAD), folder.read(EMBEDDING)):
        raise CheckpointError(
            f"{folder.folder}: config.json says tie_word_embeddings=true, but {LM_HEAD} differs "
            f"from {EMBEDDING}. Set it to false to keep both."
        )
    report(f"{LM_HEAD} repeats {EMBEDDING} and is stored once")
    del specs[LM_HEAD]
    return specs


def check_ours(where: str, specs: Mapping[str, TensorSpec], model: ModelConfig) -> None:
    """Raise CheckpointError naming every weight of a checkpoint that does not fit its model.json.

    Padding rows of the vocabulary are no fault.
    """
    published = published_shapes(model)
    wanted = {entry.ours: our_shape(entry, published) for entry in entries(model)}
    partners = {entry.ours: ", ".join(entry.published) for entry in entries(model)}
    found = {name: spec.shape for name, spec in specs.items()}
    for name in VOCABULARY_WEIGHTS:
        if name in found and found[name][1:] == wanted.get(name, ())[1:]:
            found[name] = (min(found[name][0], wanted[name][0]), *found[name][1:])
    _raise(where, _problems(found, wanted, partners, optional=frozenset()), "model.json")


def _problems(
    found: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    partners: Mapping[str, str],
    *,
    optional: frozenset[str],
) -> list[str]:
    """Write a line for each tensor that is not as wanted, with the name it has on the other side.

    Args:
        found: name to shape.
        wanted: name to shape.
        partners: name to the name on the other side.
        optional: names that may be missing.
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
        f"{where} does not hold the tensors that its {source} describes (in brackets: the name on "
        f"the other side of the conversion):\n  "
        + "\n  ".join([*problems[:_SHOWN], *more])
        + f"\nComplete the folder, or correct {source}."
    )
