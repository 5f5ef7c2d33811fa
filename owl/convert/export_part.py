# SPDX-License-Identifier: Apache-2.0
"""What an export writes: the complete model, or a model inside it that transformers knows."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from owl.config.run import ModelConfig

TOKENIZER_FILES = (
    "tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "chat_template*", "generation_config.json",
)  # fmt: skip
"""Patterns of the files that belong to a language model."""
MODEL_FILES = (*TOKENIZER_FILES, "*processor_config.json", "*.py", "LICENSE*")
"""Patterns of the files that belong to a complete model."""


class Part(StrEnum):
    """What is exported."""

    complete = "owl3"  # everything, as published; the option is older than other families
    language_model = "language-model"
    vision_model = "vision-model"


@dataclass(frozen=True, kw_only=True)
class ExportPart:
    """How one family exports one part."""

    config: Callable[[ModelConfig, str, Collection[str]], dict[str, Any]]
    """Makes config.json of the model, the dtype ("bfloat16") and the names of carried tensors.
    Raises CheckpointError where the part cannot hold the model."""
    loading: str
    """Python that loads the folder, for its card; FOLDER stands for its path."""
    loading_code: str = ""
    """The same for a folder that holds its code."""
    pipeline_tag: str
    """Task of the part, as the Hugging Face hub names it."""
    base_files: tuple[str, ...] = ()
    """Patterns of the files to copy from --base."""
    prefix: str = ""
    """Published names that belong to the part begin with it."""
    removed_prefix: str = ""
    """Beginning of the published names that their names in the part lack."""
    control_tokens: tuple[str, str] = ("<|endoftext|>", "<|im_end|>")
    """Literals of bos and eos, whose ids config.json gets where a tokenizer is copied."""
    makes_up_carried: bool = True
    """Whether carried tensors that no import brought are written, with neutral values; constants
    are left out instead."""
    excluded: tuple[str, ...] = ()
    """Published names that end so do not belong to the part."""

    @classmethod
    def complete(
        cls,
        write_config: Callable[[ModelConfig, str], dict[str, Any]],
        *,
        model_type: str,
        **settings: Any,
    ) -> Self:
        """Describe a complete model, loaded through transformers' Auto classes.

        Args:
            write_config: makes config.json of the model and the dtype.
            model_type: that owl.hf registers.
            **settings: further fields.
        """
        return cls(
            config=lambda model, dtype, names: write_config(model, dtype),
            loading=(
                f"import owl.hf  # registers {model_type} with transformers' Auto classes\n"
                "from transformers import AutoModelForCausalLM\n\n"
                "model = AutoModelForCausalLM.from_pretrained(FOLDER)"
            ),
            loading_code=(
                "from transformers import AutoModelForCausalLM, AutoProcessor\n\n"
                "model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)\n"
                "processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)"
            ),
            pipeline_tag="image-text-to-text",
            base_files=MODEL_FILES,
            **settings,
        )

    def names(self, published: Iterable[str]) -> dict[str, str]:
        """Map the published names that belong to the part to their names in it."""
        return {
            name: name.removeprefix(self.removed_prefix)
            for name in published
            if name.startswith(self.prefix) and not name.endswith(self.excluded)
        }
