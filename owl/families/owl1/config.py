# SPDX-License-Identifier: Apache-2.0
"""What only mPLUG-Owl's settings have."""

from collections.abc import Iterator
from dataclasses import dataclass

from owl.config.choices import PictureFit
from owl.config.media_entry import MediaEntry, Splice

TEMPLATES = ("owl1",)


@dataclass(kw_only=True)
class Owl1Config:
    """How pictures are read."""

    fit: PictureFit = PictureFit.stretch
    """How a picture becomes square."""

    @property
    def enters(self) -> MediaEntry:
        """How media reach the decoder."""
        return Splice()

    def problems(self, *, num_layers: int, template: str) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        if template not in TEMPLATES:
            yield (
                f"model.template={template} is no template of mPLUG-Owl. Use one of "
                f"{', '.join(TEMPLATES)}."
            )
