# SPDX-License-Identifier: Apache-2.0
"""What each family's demo starts from: the registry of `DemoFamily`s."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from torch import Tensor

from owl.config.load import compose
from owl.config.run import FamilyKind, ModelConfig
from owl.convert.start import InitOptions
from owl.errors import ConfigError
from owl.families.owl1 import demo as owl1
from owl.families.owl2 import demo as owl2
from owl.families.owl3 import demo as owl3


class DemoFamily(Protocol):
    """Two tiny models as transformers has them, and the words that the family writes.

    Letters: n pictures, s side of a picture in pixels, p features of a picture.
    """

    @property
    def SPECIAL(self) -> Sequence[str]:
        """The first tokens of the demo's tokenizer: control tokens, and `<unk>`."""
        ...

    @property
    def TOKENS(self) -> Mapping[str, str]:
        """Roles of control tokens, as transformers' tokenizer_config.json names them."""
        ...

    @property
    def MARKUP(self) -> str:
        """Text that holds every word of the templates; each becomes a token."""
        ...

    @property
    def TEMPLATES(self) -> Sequence[str]:
        """Templates in which the language model meets its text."""
        ...

    @property
    def SHARDS(self) -> Sequence[str]:
        """Which of owl.demo.shards.STAGES are made."""
        ...

    def language_model(self, model: ModelConfig) -> Any:
        """Make transformers' language model with random weights."""
        ...

    def vision_model(self, model: ModelConfig) -> Any:
        """Make transformers' vision model with random weights."""
        ...

    def features(self, tower: Any, pictures: Tensor) -> Tensor:
        """Encode pictures as the family will.

        Args:
            tower: from `vision_model`.
            pictures: [n, s, s], grey, 0 to 255.

        Returns:
            [n, p, width of the tower].
        """
        ...

    def init_options(self, model: ModelConfig) -> InitOptions:
        """Return how `owl convert init` makes the model of the two."""
        ...


DEMOS: Mapping[FamilyKind, DemoFamily] = {
    FamilyKind.owl3: owl3,
    FamilyKind.owl2: owl2,
    FamilyKind.owl1: owl1,
}


@cache
def tiny_model(family: FamilyKind) -> ModelConfig:
    """Read the demo's model from its YAML file."""
    run, problems = compose("pretrain", [f"model={family}_tiny"])
    if problems:
        raise ConfigError(problems)
    return run.model
