# SPDX-License-Identifier: Apache-2.0
"""Which generation settings are defaults: the folder's ids of tokens, and nothing else."""

from pathlib import Path
from typing import Any

from transformers import GenerationConfig, GenerationMixin


class GreedyDefaults(GenerationMixin):
    """Writes the likeliest token, without penalties, whatever generation_config.json says.

    So does the published code. The settings of the file are a choice:
    generate(..., generation_config=model.folder_generation_config).
    """

    generation_config: GenerationConfig
    folder_generation_config: GenerationConfig | None = None
    """What generation_config.json of the loaded folder says."""

    def write_greedily(self) -> None:
        """Keep of the folder's generation settings only the ids of tokens as defaults."""
        self.folder_generation_config = self.generation_config
        self.generation_config = self._ids_alone()

    def save_folder_settings(self, folder: str | Path, **kwargs: Any) -> None:
        """Write generation_config.json as it was loaded, unless it was changed since.

        Args:
            folder: that save_pretrained has written.
            **kwargs: of save_pretrained.
        """
        settings = self.folder_generation_config
        if settings is None or not kwargs.get("is_main_process", True):
            return
        if self.generation_config.to_dict() == self._ids_alone().to_dict():
            settings.save_pretrained(folder)

    def _ids_alone(self) -> GenerationConfig:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return GenerationConfig(**{n: getattr(self.folder_generation_config, n) for n in names})
