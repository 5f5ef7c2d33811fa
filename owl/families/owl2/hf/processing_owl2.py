# SPDX-License-Identifier: Apache-2.0
"""The processor of mPLUG-Owl2: its templates around OwlSquareProcessor's encoding."""

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from owl.families.owl2.hf.configuration_owl2 import Owl2Config
from owl.families.owl2.hf.template_owl2 import TEMPLATES, chat_format, chat_template
from owl.families.owl2.tiles_owl2 import FITS
from owl.portable.marks_owl import ChatFormat
from owl.portable.options_owl import OwlProcessorKwargs
from owl.portable.pixels_owl import Fit
from owl.portable.spliced.square_processing_owl import OwlSquareProcessor

Owl2ProcessorKwargs = OwlProcessorKwargs
"""Under the name that transformers derives from the class."""


class Owl2Processor(OwlSquareProcessor):
    """Encodes requests for one model; see OwlSquareProcessor.

    Args:
        tokenizer: LLaMA's, or any with its control tokens.
        image_size: side of a square in pixels.
        tokens_per_picture: placeholder tokens of a picture.
        fit: pad, stretch or crop.
        template: mplug_owl2, v1 (with a system sentence) or pretrain (without roles).
        parity: torch or pillow.
        chat_template: Jinja; that of `template` by default.
    """

    settings = (*OwlSquareProcessor.settings, "template")
    fits: ClassVar[Mapping[str, Fit]] = FITS
    config_class = Owl2Config

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int = 448,
        tokens_per_picture: int = 65,
        fit: str = "stretch",
        template: str = "mplug_owl2",
        parity: str = "torch",
        chat_template: str | None = None,
    ) -> None:
        if template not in TEMPLATES:
            raise ValueError(f"template={template!r} must be one of {', '.join(TEMPLATES)}.")
        self.template = template
        super().__init__(
            tokenizer, image_size, tokens_per_picture, fit, parity,
            chat_template or self.template_of({"template": template}),
        )  # fmt: skip

    @property
    def chat(self) -> ChatFormat:  # type: ignore[override]
        """How conversations are written."""
        return chat_format(self.template)

    @property
    def default_template(self) -> str:  # type: ignore[override]
        """Jinja of the published format."""
        return chat_template(self.template)

    @classmethod
    def settings_of(cls, config: Owl2Config) -> dict[str, Any]:
        """Return the settings that follow from a model's config."""
        return super().settings_of(config) | {"template": config.template}

    @classmethod
    def template_of(cls, settings: Mapping[str, Any]) -> str:
        """Return the Jinja of a template."""
        return chat_template(settings["template"])
