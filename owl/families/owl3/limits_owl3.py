# SPDX-License-Identifier: Apache-2.0
"""Limits of an mPLUG-Owl3's config.json.

A folder may request more than owl.hf and training compute: another activation, scaled rotary
positions, heads of another width. Each such request is reported here rather than ignored. Shared
by owl.hf and owl.convert; travels inside exported folders, so it imports nothing of owl.
"""

from collections.abc import Iterator, Mapping
from typing import Any

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
VISION_SIZES = (*SIZES[:4], "image_size", "patch_size", "num_channels")
CHOICES = {
    "fusion": ("token_gate", "static_gate", "joint_softmax"),
    "projector": ("linear", "mlp"),
    "template": ("v2", "v3"),
    "media_position_shift": (0, 1),
}
"""The settings that differ between variants. Published files lack them; see variants_owl3."""


def config_problems(language: Mapping[str, Any], vision: Mapping[str, Any]) -> Iterator[str]:
    """Report what a config.json requests but nothing here computes, and invalid values.

    Args:
        language: the file, or the config.json of a plain Qwen2; missing values have defaults.
        vision: its vision_config.
    """
    problems = [*_size_problems(language, SIZES), *_size_problems(vision, VISION_SIZES, _VISION)]
    if "hyper_layers" in language:
        problems += _hyper_layer_problems(language)
    problems += _choice_problems(language)
    if not problems:  # the rest computes with sizes
        problems = [*_decoder_problems(language), *_vision_problems(vision)]
    yield from problems


_VISION = "vision_config."


def _size_problems(
    config: Mapping[str, Any], names: tuple[str, ...], where: str = ""
) -> Iterator[str]:
    for name in names:
        value = config.get(name, 1)
        if not _is_count(value):
            yield f"{where}{name}={value!r} must be a whole number of at least 1"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _hyper_layer_problems(language: Mapping[str, Any]) -> Iterator[str]:
    layers, count = language["hyper_layers"], language.get("num_hidden_layers")
    if not isinstance(layers, list) or not layers or not all(map(_is_layer, layers)):
        yield (
            f"hyper_layers={layers!r} must list the decoder layers that attend to images, counted "
            "from 1, such as [1, 9, 17, 25]"
        )
    elif _is_count(count) and not all(1 <= layer <= count for layer in layers):
        yield f"hyper_layers={layers} must be in 1..{count}: they are counted from 1"
    elif len(set(layers)) < len(layers):
        yield f"hyper_layers={layers} must name no layer twice"


def _is_layer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _choice_problems(language: Mapping[str, Any]) -> Iterator[str]:
    for name, known in CHOICES.items():
        value = language.get(name)
        if value is not None and value not in known:
            allowed = ", ".join(map(str, known))
            yield f"{name}={value!r} must be one of {allowed}"


def _decoder_problems(language: Mapping[str, Any]) -> Iterator[str]:
    width, heads = language.get("hidden_size", 1), language.get("num_attention_heads", 1)
    if width % heads:
        yield f"num_attention_heads={heads} must divide hidden_size={width}"
    elif (head_dim := language.get("head_dim")) not in (None, width // heads):
        yield (
            f"head_dim={head_dim!r} must be hidden_size / num_attention_heads = {width // heads}: "
            "no other width is supported"
        )
    if (groups := language.get("num_key_value_heads", 1)) and heads % groups:
        yield f"num_key_value_heads={groups} must divide num_attention_heads={heads}"
    if (act := language.get("hidden_act", "silu")) not in ("silu", "srequest"):
        yield f"hidden_act={act!r} must be 'silu': no other activation is supported"
    if language.get("use_sliding_window"):
        yield "use_sliding_window=True must be false: no window is supported, and none published"
    kinds = set(language.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        yield f"layer_types names {sorted(kinds)}: only 'full_attention' is supported"
    yield from _rotary_problems(language)


def _rotary_problems(language: Mapping[str, Any]) -> Iterator[str]:
    """Check both fields: transformers 4 writes rope_scaling, 5 rope_parameters."""
    for field in ("rope_scaling", "rope_parameters"):
        request = language.get(field)
        if request is not None and not is_plain_rotary(request):
            yield (
                f"{field}={request!r} must be absent or 'default': scaled, partial or "
                "multi-dimensional rotary positions are not supported"
            )
    if language.get("partial_rotary_factor") not in (None, 1):
        yield f"partial_rotary_factor={language['partial_rotary_factor']!r} must be 1"


def is_plain_rotary(parameters: Any) -> bool:
    """Whether rotary parameters set nothing but a base."""
    if not isinstance(parameters, Mapping):
        return False
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    partial = parameters.get("partial_rotary_factor")
    by_layer = any(isinstance(value, Mapping) for value in parameters.values())
    return kind in (None, "default") and partial in (None, 1) and not by_layer


def _vision_problems(vision: Mapping[str, Any]) -> Iterator[str]:
    tanh = "gelu_pytorch_tanh"
    if (act := vision.get("hidden_act", tanh)) != tanh:
        yield f"{_VISION}hidden_act={act!r} must be {tanh!r}: no other activation is supported"
    if (channels := vision.get("num_channels", 3)) != 3:
        yield f"{_VISION}num_channels={channels} must be 3: tiles are red, green and blue"
    if dropout := vision.get("attention_dropout"):
        yield f"{_VISION}attention_dropout={dropout!r} must be 0: no attention weight is dropped"
    width, heads = vision.get("hidden_size", 1), vision.get("num_attention_heads", 1)
    if width % heads:
        yield f"{_VISION}num_attention_heads={heads} must divide {_VISION}hidden_size={width}"
