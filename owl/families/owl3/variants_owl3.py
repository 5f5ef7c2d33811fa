# SPDX-License-Identifier: Apache-2.0
"""The published variants of mPLUG-Owl3, and how to tell one from another.

They share their config keys: what tells them apart are the tensor names.
"""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """What a release chose."""

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
    """Tell the variant of a checkpoint by its tensor names; None if it is no mPLUG-Owl3."""
    if any(".self_attn.gate_proj.0." in name for name in tensor_names):
        return "240728"
    if any(name.endswith(".self_attn.gate") for name in tensor_names):
        return "241014"
    if any(".self_attn.v_kv_proj." in name for name in tensor_names):
        return "241101"
    return None
