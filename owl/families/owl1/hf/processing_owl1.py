# SPDX-License-Identifier: Apache-2.0
"""The processor of mPLUG-Owl: its template around OwlSquareProcessor's encoding."""

from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from owl.families.owl1.hf.configuration_owl1 import Owl1Config
from owl.families.owl1.hf.template_owl1 import CHAT, CHAT_TEMPLATE
from owl.families.owl1.markup_owl1 import write_clip
from owl.portable.options_owl import OwlProcessorKwargs
from owl.portable.pieces_owl import Piece
from owl.portable.spliced.square_processing_owl import OwlSquareProcessor

Owl1ProcessorKwargs = OwlProcessorKwargs
"""Under the name that transformers derives from the class."""


class Owl1Processor(OwlSquareProcessor):
    """Encodes requests for one model; see OwlSquareProcessor.

    In rendered prompts a picture's mark may also be the published `<image>`.
    """

    chat = CHAT
    default_template = CHAT_TEMPLATE
    config_class = Owl1Config

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int = 224,
        tokens_per_picture: int = 65,
        fit: str = "stretch",
        parity: str = "torch",
        chat_template: str | None = None,
    ) -> None:
        super().__init__(
            tokenizer, image_size, tokens_per_picture, fit, parity, chat_template or CHAT_TEMPLATE
        )

    def write_clip(self, frames: int) -> Iterator[Piece]:
        """Write the frames of a video, a line each."""
        yield from write_clip(frames)
