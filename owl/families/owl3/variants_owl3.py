# SPDX-License-Identifier: Apache-2.0
"""The published variants of mPLUG-Owl3, and how to distinguish them.

Their config files have the same keys: only the tensor names differ.
"""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """The choices of a release."""

    fusion: str
    projector: str
    media_position_shift: int
    template: str


VARIANTS = {
    "240728": Variant("token_gate", "linear", 1, "v2"),
    "241014": Variant("static_gate", "linear", 1, "v3"),
    "241101": Variant("joint_softmax", "mlp", 0, "v3"),
}


def variant_of(tensor_names: Collection[str]) -> str | None:
    """Infer a checkpoint's variant from its tensor names; None if it is not an mPLUG-Owl3."""
    if any(".self_attn.gate_proj.0." in name for name in tensor_names):
        return "240728"
    if any(name.endswith(".self_attn.gate") for name in tensor_names):
        return "241014"
    if any(".self_attn.v_kv_proj." in name for name in tensor_names):
        return "241101"
    return None
