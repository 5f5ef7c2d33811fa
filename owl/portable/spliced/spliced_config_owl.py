# SPDX-License-Identifier: Apache-2.0
"""What a config.json of a model with CLIP tower and abstractor may ask for.

Such a file may request more than is computed here. Each request is reported rather than ignored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from owl.portable.spliced.abstractor_owl import AbstractorSizes
from owl.portable.spliced.clip_tower_owl import ClipSizes

FITS = ("pad", "stretch", "crop")
PUBLISHED_FITS = {"pad": "pad", "resize": "stretch"}
"""image_aspect_ratio, as published, to the way in which a picture becomes square; anything else
means that its centre is cropped."""


def complete(values: dict[str, Any]) -> dict[str, Any]:
    """Write the rotary base where releases before transformers 5 look for it, in place."""
    parameters = values.get("rope_parameters") or {}
    if "rope_theta" in parameters:
        values["rope_theta"] = parameters["rope_theta"]
    return values


def read_fit(image_aspect_ratio: Any, default: str) -> str:
    """Read the published field; `default` where the file has none."""
    if image_aspect_ratio is None:
        return default
    return PUBLISHED_FITS.get(image_aspect_ratio, "crop")


def write_fit(fit: str) -> str:
    """Return the published value of a fit."""
    return {value: name for name, value in PUBLISHED_FITS.items()}.get(fit, fit)


def media_problems(
    tower: Mapping[str, Any], abstractor: Mapping[str, Any], names: tuple[str, str]
) -> Iterator[str]:
    """Report what the tower's and the abstractor's part request but nothing here computes.

    Args:
        tower: of config.json.
        abstractor: of config.json.
        names: of the two, for messages.
    """
    yield from _size_problems(asdict(ClipSizes.of(tower)), names[0])
    yield from _size_problems(asdict(AbstractorSizes.of(abstractor)), names[1])
    for name, part, field, wanted in (
        (names[0], tower, "hidden_act", "quick_gelu"),
        (names[0], tower, "num_channels", 3),
        (names[0], tower, "use_cls_token", True),
        (names[0], tower, "use_post_layernorm", True),
        (names[0], tower, "attention_dropout", 0.0),
        (names[1], abstractor, "add_v2t_pos_emb", False),
        (names[1], abstractor, "use_cls_token", True),
    ):
        if part.get(field, wanted) != wanted:
            yield f"{name}.{field}={part[field]!r} must be {wanted!r}: nothing else is computed"
    width = tower.get("hidden_size", ClipSizes.hidden_size)
    for field in ("hidden_size", "encoder_hidden_size"):
        if abstractor.get(field, width) != width:
            yield f"{names[1]}.{field}={abstractor[field]!r} must be the tower's width, {width}"
    side = ClipSizes.of(tower).side if not list(_size_problems(tower, "")) else 0
    if side and abstractor.get("grid_size") not in (None, 0, side):
        yield (
            f"{names[1]}.grid_size={abstractor['grid_size']!r} must be image_size / patch_size = "
            f"{side}"
        )


def _size_problems(sizes: Mapping[str, Any], name: str) -> Iterator[str]:
    counts = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "image_size", "patch_size", "num_learnable_queries",
    )  # fmt: skip
    wrong = [field for field in counts if not _is_count(sizes.get(field, 1))]
    for field in wrong:
        yield f"{name}.{field}={sizes[field]!r} must be a whole number of at least 1"
    if wrong:
        return
    width, heads = sizes.get("hidden_size", 1), sizes.get("num_attention_heads", 1)
    if width % heads:
        yield f"{name}.num_attention_heads={heads} must divide {name}.hidden_size={width}"
    if sizes.get("image_size", 1) < sizes.get("patch_size", 1):
        yield f"{name}.image_size={sizes['image_size']} must be at least one patch"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def llama_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Report what a LLaMA's config requests but no published model of this kind has."""
    if config.get("attention_bias"):
        yield "attention_bias=true must be false: no projection of the decoder has a bias"
