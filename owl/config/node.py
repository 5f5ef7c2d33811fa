# SPDX-License-Identifier: Apache-2.0
"""Build a config node from plain values, such as those that a checkpoint stores."""

from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import OmegaConf

Node = TypeVar("Node")


def build_node(kind: type[Node], values: Mapping[str, Any]) -> Node:
    """Build a config dataclass from plain values, enums and nested nodes included."""
    merged = OmegaConf.merge(OmegaConf.structured(kind), dict(values))
    node: Node = OmegaConf.to_object(merged)  # type: ignore[assignment]
    return node
