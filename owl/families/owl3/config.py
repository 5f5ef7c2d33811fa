# SPDX-License-Identifier: Apache-2.0
"""What only mPLUG-Owl3's settings have: the layers that look at images, and how."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from owl.config.media_entry import Cross

TEMPLATES = ("v2", "v3")


class FusionKind(StrEnum):
    """How image features join the text stream inside a hyper-attention layer."""

    token_gate = "token_gate"  # 7B-240728: gate computed per token and head from the text output
    static_gate = "static_gate"  # 1B/2B-241014: one learned gate vector
    joint_softmax = "joint_softmax"  # 7B-241101: text and image keys share one softmax


@dataclass(kw_only=True)
class HyperAttentionConfig:
    """The layers that look at images, and how."""

    layer_indices: list[int] = field(default_factory=lambda: [0, 8, 16, 24])
    """0-based. The Hugging Face field `hyper_layers` is 1-based; `owl.convert` shifts it."""
    fusion: FusionKind = FusionKind.token_gate
    media_position_shift: int = 1
    """Added to a placeholder's first index to give the tile's position: 1 in 240728 and 241014,
    0 in 241101. A token sees the tile when its own position is at or after that."""

    @property
    def enters(self) -> Cross:
        """How media reach the decoder."""
        return Cross(tuple(self.layer_indices), self.media_position_shift)

    def problems(self, *, num_layers: int, template: str) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        yield from _layer_problems(self.layer_indices, num_layers)
        if self.media_position_shift not in (0, 1):
            yield (
                f"model.hyper_attention.media_position_shift={self.media_position_shift} is "
                f"neither 1 (240728, 241014) nor 0 (241101). Use the one of your variant."
            )
        if template not in TEMPLATES:
            yield (
                f"model.template={template} is no template of mPLUG-Owl3. Use v2 (240728) or v3 "
                f"(241014, 241101)."
            )


def _layer_problems(layers: Sequence[int], num_layers: int) -> Iterator[str]:
    name = "model.hyper_attention.layer_indices"
    out_of_range = [i for i in layers if not 0 <= i < num_layers]
    if out_of_range:
        yield (
            f"{name}={layers} names layers {out_of_range}, but the decoder has layers "
            f"0..{num_layers - 1}. If you copied them from a Hugging Face config, subtract 1."
        )
    if layers != sorted(set(layers)):
        yield f"{name}={layers} must rise without repeats. Write {sorted(set(layers))} instead."
    if not layers:
        yield f"{name}=[] leaves no layer that sees images. Name at least one."
