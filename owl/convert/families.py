# SPDX-License-Identifier: Apache-2.0
"""The published forms of model families, and which family a folder or a variant belongs to."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from owl.config.choices import FamilyKind
from owl.config.run import ModelConfig
from owl.convert.export_part import ExportPart, Part
from owl.convert.files.reader import HfFolder
from owl.convert.start import InitOptions, Start
from owl.convert.tables.table import Entry, Shape, WeightTable
from owl.data.samples import PackedBatch
from owl.errors import CheckpointError
from owl.families.owl1 import published as owl1
from owl.families.owl2 import published as owl2
from owl.families.owl3 import published as owl3


class Published(Protocol):
    """The published form of a family; a module or an object with these members."""

    @property
    def VARIANTS(self) -> Mapping[str, object]:
        """The published variants by name; `init --variant` finds the family by it."""
        ...

    @property
    def PARTS(self) -> Mapping[Part, ExportPart]:
        """What can be exported; Part.complete at least."""
        ...

    def claims(self, config: Mapping[str, Any], names: Collection[str]) -> bool:
        """Whether a folder is of this family.

        Args:
            config: the parsed config.json.
            names: of the folder's tensors.
        """
        ...

    def read_config(
        self, config: Mapping[str, Any], names: Collection[str], name: str
    ) -> ModelConfig:
        """Read the architecture of a folder that the family claims.

        Args:
            config: the parsed config.json.
            names: of the folder's tensors.
            name: name for the model.

        Raises:
            CheckpointError: config.json is incomplete, or describes what training cannot compute.
        """
        ...

    def write_config(self, model: ModelConfig, dtype: str) -> dict[str, Any]:
        """Write config.json: what read_config reads.

        Args:
            model: the architecture.
            dtype: of the weights: "bfloat16".

        Raises:
            CheckpointError: the published form cannot hold such a model.
        """
        ...

    def entries(self, model: ModelConfig) -> Iterator[Entry]:
        """Yield every weight of the training model with the published tensors it is made of.

        In the order of an export. Published shapes are without padding, so that a vocabulary has
        model.vocab_size rows.
        """
        ...

    def carried(self, model: ModelConfig) -> dict[str, Shape]:
        """Return the published tensors that influence no output, with their shapes.

        A folder may lack them; those that it has are stored beside a checkpoint's weights, for
        export.
        """
        ...

    def start(self, language: HfFolder, vision: HfFolder, options: InitOptions) -> Start:
        """Start from pretrained parts.

        Args:
            language: folder of a language model.
            vision: folder of a vision model.
            options: choices of the user; options.variant is in VARIANTS.

        Raises:
            CheckpointError: the folders do not make a model of this family.
        """
        ...

    def describe(self, model: ModelConfig) -> dict[str, str]:
        """Return what a model card reports of this family's settings, by title."""
        ...

    def logits(self, folder: Path, batch: PackedBatch) -> Tensor:
        """Compute the logits of a published folder with the inference code, in float32.

        Args:
            folder: of the published model.
            batch: t tokens of several samples.

        Returns:
            [t, vocabulary].
        """
        ...


PUBLISHED: dict[FamilyKind, Published] = {
    FamilyKind.owl3: owl3,
    FamilyKind.owl2: owl2,
    FamilyKind.owl1: owl1,
}


def family_of_folder(config: Mapping[str, Any], names: Collection[str], folder: Path) -> Published:
    """Find the family that claims a Hugging Face folder.

    Args:
        config: its parsed config.json.
        names: of its tensors.
        folder: for the message.

    Raises:
        CheckpointError: no family does.
    """
    for family in PUBLISHED.values():
        if family.claims(config, names):
            return family
    raise CheckpointError(
        f"{folder / 'config.json'} has model_type={config.get('model_type')!r}, which is none of "
        f"the model families here: {', '.join(PUBLISHED)}. To start from a plain language model "
        "and a plain vision model, run python -m owl.convert init."
    )


def family_of_variant(variant: str) -> Published:
    """Find the family that has a published variant.

    Raises:
        CheckpointError: none has.
    """
    for family in PUBLISHED.values():
        if variant in family.VARIANTS:
            return family
    known = [name for family in PUBLISHED.values() for name in family.VARIANTS]
    raise CheckpointError(f"--variant {variant} is none of {', '.join(known)}. Use one of these.")


def weight_table(family: Published, model: ModelConfig) -> WeightTable:
    """List every tensor of a model's published form."""
    return WeightTable(tuple(family.entries(model)), family.carried(model))
